//! Responses that are not streams.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use ds4_api::RequestError;
use ds4_api::{Api, ApiError, ErrorKind};
use serde_json::Value;

/// Seconds after which a refused client should ask again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");
/// Characters of an error's message.
const MESSAGE_CHARS_MAX: usize = 1000;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why a request is not answered; small enough to be handed around.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Box<ApiError>);

impl Refusal {
    /// With the id of its request.
    pub(crate) fn of(self, id: String) -> ApiError {
        self.0.with_request_id(id)
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(Box::new(error))
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        ApiError::from(error).into()
    }
}

/// A JSON body, ending with a line feed.
pub(crate) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// An error as the clients of this API read it.
pub(crate) fn error(api: Api, error: &ApiError) -> Response<Body> {
    let status = StatusCode::from_u16(error.status_for(api));
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &shortened(error).body(api));
    if matches!(error.kind, ErrorKind::RateLimit | ErrorKind::Overloaded) {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

/// The error without most of what it quotes of a long request.
fn shortened(error: &ApiError) -> Cow<'_, ApiError> {
    let text = &error.message;
    let Some((end, _)) = text.char_indices().nth(MESSAGE_CHARS_MAX) else {
        return Cow::Borrowed(error);
    };
    Cow::Owned(ApiError { message: format!("{}…", &text[..end]), ..error.clone() })
}

/// Text that is not JSON.
pub(crate) fn text(content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
