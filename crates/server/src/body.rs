//! The body of a request: read within its limits of size and time.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use ds4_api::{ApiError, ErrorKind};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::limits::{BODY_DISCARD_MAX, BODY_IDLE_MAX};
use crate::reply::Refusal;

/// Reads a whole body of at most `max` bytes.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    max: usize,
) -> Result<Vec<u8>, Refusal> {
    check_encoding(headers)?;
    let said = headers.get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse().ok());
    if said.is_some_and(|n: usize| n > max) {
        // A client that asks first has sent nothing yet.
        if !headers.contains_key(header::EXPECT) {
            discard(&mut body).await;
        }
        return Err(ApiError::too_large(max).into());
    }
    let mut bytes = Vec::with_capacity(said.unwrap_or(0).min(1 << 20));
    while let Some(data) = next(&mut body).await? {
        if bytes.len() + data.len() > max {
            discard(&mut body).await;
            return Err(ApiError::too_large(max).into());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(ApiError {
            status: 415,
            kind: ErrorKind::InvalidRequest,
            ..ApiError::internal(format!("content-encoding {encoding:?} is not supported"))
        }
        .into()),
        _ => Ok(()),
    }
}

/// The next piece of data.
async fn next(body: &mut Body) -> Result<Option<axum::body::Bytes>, Refusal> {
    loop {
        match timeout(BODY_IDLE_MAX, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(Some(Err(error))) => {
                let message = format!("the body could not be read: {error}");
                return Err(ds4_api::RequestError::invalid(message).into());
            }
            Err(_) => {
                return Err(ApiError {
                    status: 408,
                    kind: ErrorKind::InvalidRequest,
                    ..ApiError::internal("the body did not arrive in time")
                }
                .into());
            }
        }
    }
}

/// Reads on, up to a limit, for the sake of a client that only reads when it has written.
async fn discard(body: &mut Body) {
    let mut left = BODY_DISCARD_MAX;
    while let Ok(Some(data)) = next(body).await {
        let Some(rest) = left.checked_sub(data.len()) else { return };
        left = rest;
    }
}
