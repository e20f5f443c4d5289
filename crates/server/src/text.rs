//! Text and tokens, without the model.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use ds4_api::{Api, RequestError, models};
use serde_json::{Value, json};

use crate::generate::blocking;
use crate::prepare::{chat_ids, count};
use crate::reply::Refusal;
use crate::router::id_of;
use crate::server::Server;
use crate::{body, json, reply};

/// Reads a body and answers it with what `work` makes of it.
async fn respond(
    server: Arc<Server>,
    api: Api,
    request: Request,
    work: impl FnOnce(&Server, Vec<u8>) -> Result<Value, Refusal> + Send + 'static,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let max = server.options().body_bytes_max;
    let answer = async {
        let body = body::read(&parts.headers, body, max).await?;
        blocking(move || work(&server, body)).await
    };
    match answer.await {
        Ok(value) => reply::json(StatusCode::OK, &value),
        Err(error) => reply::error(api, &error.of(id_of(&parts.extensions))),
    }
}

/// Tokens of a Messages request's prompt.
pub(crate) async fn count_tokens(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Response<Body> {
    let work = |server: &Server, body| count(server, body).map(models::token_count);
    respond(server, Api::Messages, request, work).await
}

/// Token ids of a text, or of a chat's prompt.
pub(crate) async fn tokenize(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Response<Body> {
    respond(server, Api::Chat, request, |server, body| {
        let body = json::parse(body)?;
        let ids = if body.get("messages").is_some() {
            chat_ids(server, &body)?
        } else {
            text_ids(server, &body)?
        };
        let (count, ctx) = (ids.len(), server.options().ctx);
        Ok(json!({"tokens": ids, "count": count, "max_model_len": ctx}))
    })
    .await
}

fn text_ids(server: &Server, body: &Value) -> Result<Vec<u32>, Refusal> {
    let text = ["content", "prompt", "text"].into_iter().find_map(|key| body.get(key));
    let Some(Value::String(text)) = text else {
        return Err(RequestError::invalid("content: a string is needed").into());
    };
    let is_set = |keys: &[&str], default: bool| {
        let value = keys.iter().find_map(|key| body.get(*key));
        match value {
            None => Ok(default),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => Err(RequestError::invalid(format!("{}: must be a boolean", keys[0]))),
        }
    };
    let tokenizer = server.tokenizer();
    let ids = if is_set(&["parse_special"], false)? {
        tokenizer.encode_with_control(text)
    } else {
        tokenizer.encode_plain(text)
    };
    let bos = is_set(&["add_special", "add_special_tokens"], false)?;
    Ok(bos.then_some(tokenizer.specials().bos).into_iter().chain(ids).collect())
}

/// Text of token ids.
pub(crate) async fn detokenize(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Response<Body> {
    respond(server, Api::Chat, request, |server, body| {
        let body = json::parse(body)?;
        let Some(Value::Array(list)) = body.get("tokens") else {
            return Err(RequestError::invalid("tokens: an array of token ids is needed").into());
        };
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Option<Vec<u32>> = list.iter().map(id).collect();
        let ids = ids.ok_or_else(|| RequestError::invalid("tokens: an id is not a number"))?;
        let text = server.tokenizer().decode(&ids).map_err(RequestError::from)?;
        Ok(json!({"content": text, "prompt": text}))
    })
    .await
}
