//! Errors as the clients of each API read them.

use serde_json::{Map, Value, json};

use crate::{Api, RequestError};

/// The kinds of errors that clients tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request must be changed.
    InvalidRequest,
    /// No key, or a wrong one.
    Authentication,
    /// Allowed to others only.
    Permission,
    /// There is no such thing.
    NotFound,
    /// The body is too big.
    TooLarge,
    /// Too many requests; try again later.
    RateLimit,
    /// No more work is taken now.
    Overloaded,
    /// It is not the client's fault.
    Internal,
}

/// An error on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// HTTP status; see [`Self::status_for`].
    pub status: u16,
    /// What kind of error it is.
    pub kind: ErrorKind,
    /// What is wrong, one line.
    pub message: String,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<String>,
    /// Further fields of the error object.
    pub extra: Map<String, Value>,
    /// Id of the request, which Anthropic clients show to people.
    pub request_id: Option<String>,
}

impl ApiError {
    fn new(status: u16, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            param: None,
            code: None,
            extra: Map::new(),
            request_id: None,
        }
    }

    fn with_code(self, code: &str) -> Self {
        Self { code: Some(code.to_owned()), ..self }
    }

    /// A prompt that leaves no room in the context for an answer. Anthropic clients compact their
    /// conversation when they read "prompt is too long".
    pub fn context_exceeded(api: Api, n_prompt: usize, n_ctx: usize) -> Self {
        let message = match api {
            Api::Messages => format!("prompt is too long: {n_prompt} tokens > {n_ctx} maximum"),
            _ => format!(
                "Prompt has {n_prompt} tokens, but the configured context size is {n_ctx} tokens"
            ),
        };
        let param = match api {
            Api::Chat | Api::Messages => "messages",
            Api::Completions => "prompt",
            Api::Responses => "input",
        };
        let extra = [("n_prompt_tokens", n_prompt), ("n_ctx", n_ctx)];
        Self {
            param: Some(param.to_owned()),
            extra: extra.map(|(key, n)| (key.to_owned(), json!(n))).into_iter().collect(),
            ..Self::new(400, ErrorKind::InvalidRequest, message)
                .with_code("context_length_exceeded")
        }
    }

    /// The queue is full; the answer should carry `Retry-After`.
    pub fn queue_full() -> Self {
        let message = "The server is busy: its queue is full. Try again later.";
        Self::new(429, ErrorKind::RateLimit, message).with_code("rate_limit_exceeded")
    }

    /// No key, or a wrong one.
    pub fn unauthorised() -> Self {
        let message = "Incorrect or missing API key: send it as `Authorization: Bearer …` or \
                       `x-api-key`";
        Self::new(401, ErrorKind::Authentication, message).with_code("invalid_api_key")
    }

    /// A request that a browser sends on behalf of a foreign page.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, ErrorKind::Permission, message)
    }

    /// A path that nothing is at.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(404, ErrorKind::NotFound, what)
    }

    /// A model that is not served.
    pub fn model_not_found(id: &str) -> Self {
        Self::new(404, ErrorKind::NotFound, format!("The model `{id}` does not exist"))
            .with_code("model_not_found")
    }

    /// A path that exists, but not for this method.
    pub fn method_not_allowed(method: &str, allowed: &str) -> Self {
        let message = format!("{method} is not allowed here; allowed: {allowed}");
        Self::new(405, ErrorKind::InvalidRequest, message).with_code("method_not_allowed")
    }

    /// A body beyond the limit.
    pub fn too_large(limit_bytes: usize) -> Self {
        let message = format!("The request body is larger than {limit_bytes} bytes");
        Self::new(413, ErrorKind::TooLarge, message).with_code("request_too_large")
    }

    /// No more requests are taken.
    pub fn shutting_down() -> Self {
        Self::new(503, ErrorKind::Overloaded, "server shutting down")
    }

    /// Something broke here.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, ErrorKind::Internal, message)
    }

    /// The same with the id of its request.
    #[must_use]
    pub fn with_request_id(self, id: impl Into<String>) -> Self {
        Self { request_id: Some(id.into()), ..self }
    }

    /// The HTTP status for clients of this API: Anthropic's have one of their own for a server
    /// that takes no work.
    pub fn status_for(&self, api: Api) -> u16 {
        match (api, self.kind) {
            (Api::Messages, ErrorKind::Overloaded) => 529,
            _ => self.status,
        }
    }

    /// The body as the clients of this API read it.
    pub fn body(&self, api: Api) -> Value {
        match api {
            Api::Messages => {
                let mut error = json!({"type": self.anthropic_type(), "message": self.message});
                self.add_extra(&mut error);
                json!({"type": "error", "error": error, "request_id": self.request_id})
            }
            Api::Chat | Api::Completions | Api::Responses => {
                let mut error = json!({
                    "message": self.message,
                    "type": self.openai_type(),
                    "param": self.param,
                    "code": self.code,
                });
                self.add_extra(&mut error);
                json!({"error": error})
            }
        }
    }

    fn add_extra(&self, error: &mut Value) {
        for (key, value) in &self.extra {
            error[key] = value.clone();
        }
    }

    fn openai_type(&self) -> &'static str {
        match self.kind {
            ErrorKind::InvalidRequest | ErrorKind::NotFound | ErrorKind::TooLarge => {
                "invalid_request_error"
            }
            ErrorKind::Authentication => "authentication_error",
            ErrorKind::Permission => "permission_error",
            ErrorKind::RateLimit => "rate_limit_error",
            ErrorKind::Overloaded | ErrorKind::Internal => "server_error",
        }
    }

    fn anthropic_type(&self) -> &'static str {
        match self.kind {
            ErrorKind::InvalidRequest => "invalid_request_error",
            ErrorKind::Authentication => "authentication_error",
            ErrorKind::Permission => "permission_error",
            ErrorKind::NotFound => "not_found_error",
            ErrorKind::TooLarge => "request_too_large",
            ErrorKind::RateLimit => "rate_limit_error",
            ErrorKind::Overloaded => "overloaded_error",
            ErrorKind::Internal => "api_error",
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let code = error.code.map(str::to_owned);
        Self { code, ..Self::new(error.status, ErrorKind::InvalidRequest, error.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_reads_its_own_form() {
        let error = ApiError::context_exceeded(Api::Responses, 9, 8);
        assert_eq!(
            error.body(Api::Responses).to_string(),
            "{\"error\":{\"message\":\"Prompt has 9 tokens, but the configured context size is 8 \
             tokens\",\"type\":\"invalid_request_error\",\"param\":\"input\",\
             \"code\":\"context_length_exceeded\",\"n_prompt_tokens\":9,\"n_ctx\":8}}"
        );
        let error = ApiError::context_exceeded(Api::Messages, 9, 8).with_request_id("req_1");
        assert_eq!(
            error.body(Api::Messages).to_string(),
            "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\
             \"message\":\"prompt is too long: 9 tokens > 8 maximum\",\
             \"n_prompt_tokens\":9,\"n_ctx\":8},\
             \"request_id\":\"req_1\"}"
        );
        let down = ApiError::shutting_down();
        assert_eq!((down.status_for(Api::Chat), down.status_for(Api::Messages)), (503, 529));
        for (error, status, openai, anthropic) in [
            (ApiError::queue_full(), 429, "rate_limit_error", "rate_limit_error"),
            (ApiError::unauthorised(), 401, "authentication_error", "authentication_error"),
            (ApiError::forbidden("x"), 403, "permission_error", "permission_error"),
            (ApiError::not_found("x"), 404, "invalid_request_error", "not_found_error"),
            (ApiError::model_not_found("x"), 404, "invalid_request_error", "not_found_error"),
            (ApiError::too_large(1), 413, "invalid_request_error", "request_too_large"),
            (ApiError::internal("x"), 500, "server_error", "api_error"),
            (
                ApiError::method_not_allowed("GET", "POST"),
                405,
                "invalid_request_error",
                "invalid_request_error",
            ),
        ] {
            assert_eq!(error.status, status);
            assert_eq!(error.body(Api::Chat)["error"]["type"], openai);
            assert_eq!(error.body(Api::Messages)["error"]["type"], anthropic);
        }
    }
}
