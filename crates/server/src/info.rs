//! What the server says about itself: models, health, metrics.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use ds4_api::ApiError;
use ds4_api::models::{self, ListForm, ModelInfo};
use ds4_kvstore::KvStore;
use serde_json::json;

use crate::reply;
use crate::route::api_of;
use crate::router::id_of;
use crate::server::Server;

fn info(server: &Server) -> ModelInfo {
    let options = server.options();
    ModelInfo {
        context: options.ctx as usize,
        max_tokens: options.max_tokens as usize,
        names: options.names(),
    }
}

fn form(headers: &HeaderMap) -> ListForm {
    let is_theirs = headers.contains_key("anthropic-version");
    if is_theirs { ListForm::Anthropic } else { ListForm::OpenAi }
}

/// All names of the model.
pub(crate) async fn models(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
) -> Response<Body> {
    reply::json(StatusCode::OK, &models::list(&info(&server), form(&headers)))
}

/// The model under one of its names.
pub(crate) async fn model(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    request: Request,
) -> Response<Body> {
    let (headers, info) = (request.headers(), info(&server));
    if info.names.contains(&name) {
        return reply::json(StatusCode::OK, &models::model(&info, &name, form(headers)));
    }
    let error = ApiError::model_not_found(&name).with_request_id(id_of(request.extensions()));
    reply::error(api_of(request.uri().path(), headers), &error)
}

/// Whether requests are taken, for load balancers.
pub(crate) async fn health(State(server): State<Arc<Server>>) -> Response<Body> {
    let load = server.worker().status();
    match server.check_open() {
        Ok(()) => {
            let load = json!({"status": "ok", "queue": load.waiting, "active": load.active});
            reply::json(StatusCode::OK, &load)
        }
        Err(error) => {
            let body = json!({"status": "unavailable", "message": error.0.message});
            reply::json(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

/// Counters for Prometheus.
pub(crate) async fn metrics(State(server): State<Arc<Server>>) -> Response<Body> {
    let status = server.worker().status();
    let store = server.store().map(KvStore::stats).unwrap_or_default();
    let text = server.metrics().render(status, store, server.turns().held());
    reply::text("text/plain; version=0.0.4; charset=utf-8", text)
}
