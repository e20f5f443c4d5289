//! From requests to handlers, and what every request goes through before and after them.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state, map_request};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Router, middleware};
use ds4_api::{Api, ApiError, ErrorKind};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{
    MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};

use crate::generate::generate;
use crate::id::new_id;
use crate::limits::REQUEST_ID_BYTES_MAX;
use crate::prepare::Hints;
use crate::route::{Route, api_name, api_of};
use crate::server::Server;
use crate::{info, openapi, origin, reply, text};

const REQUEST_ID: &str = "x-request-id";

impl Server {
    /// The service: every route, with keys, limits and errors in the form of each API.
    pub fn router(self: &Arc<Self>) -> Router {
        let mut router = Router::new();
        for route in Route::ALL {
            for path in route.paths() {
                router = router.route(path, handler(route));
            }
        }
        let routes = router
            .fallback(not_found)
            .method_not_allowed_fallback(not_allowed)
            .with_state(Arc::clone(self));
        // Around all routes, not within each, so that paths can be set right before one is chosen.
        Router::new()
            .fallback_service(routes)
            .layer(from_fn_with_state(Arc::clone(self), gate))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(PropagateRequestIdLayer::x_request_id())
            .layer(SetRequestIdLayer::x_request_id(NewRequestId))
            .layer(map_request(drop_odd_id))
            .layer(map_request(straighten))
            .layer(middleware::map_response(echo_id))
    }
}

fn handler(route: Route) -> MethodRouter<Arc<Server>> {
    match route {
        Route::Generate(api) => on(MethodFilter::POST, move |State(server), request: Request| {
            answer(server, api, request)
        }),
        Route::CountTokens => on(MethodFilter::POST, text::count_tokens),
        Route::Tokenize => on(MethodFilter::POST, text::tokenize),
        Route::Detokenize => on(MethodFilter::POST, text::detokenize),
        Route::Models => on(MethodFilter::GET, info::models),
        Route::Model => on(MethodFilter::GET, info::model),
        Route::Health => on(MethodFilter::GET, info::health),
        Route::Metrics => on(MethodFilter::GET, info::metrics),
        Route::OpenApi => on(MethodFilter::GET, openapi::document),
    }
}

async fn answer(server: Arc<Server>, api: Api, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let is_asked = |name: &str| parts.headers.get(name).is_some_and(|v| v == "1" || v == "true");
    let hints = Hints {
        id: id_of(&parts.extensions),
        honor_sampling: is_asked("x-ds4-deterministic"),
        explains: is_asked("x-ds4-explain"),
        arrived: Instant::now(),
    };
    generate(server, api, parts.headers, body, hints).await
}

/// The id that a request was given, or came with.
pub(crate) fn id_of(extensions: &axum::http::Extensions) -> String {
    let id = extensions.get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    id.unwrap_or_default().to_owned()
}

/// What every request goes through: pages of other machines and strangers are turned away, and
/// responses are counted.
async fn gate(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response<Body> {
    let api = api_of(request.uri().path(), request.headers());
    let asked = server.options().cors.then(|| request.headers().clone());
    let mut response = match refusal(&server, &request) {
        Some(error) => {
            let id = id_of(request.extensions());
            reply::error(api, &error.with_request_id(id))
        }
        None if request.method() == Method::OPTIONS => no_content(),
        None => next.run(request).await,
    };
    if let Some(asked) = asked {
        origin::allow(&asked, response.headers_mut());
    }
    server.metrics().response(api_name(api), response.status().as_u16());
    response
}

fn refusal(server: &Server, request: &Request) -> Option<ApiError> {
    let options = server.options();
    if !options.cors && origin::is_foreign(request.headers()) {
        let message = "requests from web pages of other machines are refused; see --cors";
        return Some(ApiError::forbidden(message));
    }
    let path = request.uri().path();
    let is_open = request.method() == Method::OPTIONS || Route::Health.paths().contains(&path);
    (!is_open && !options.keys.admit(request.headers())).then(ApiError::unauthorised)
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

async fn not_found(request: Request) -> Response<Body> {
    let (path, headers) = (request.uri().path(), request.headers());
    let error = ApiError::not_found("unknown endpoint");
    reply::error(api_of(path, headers), &error.with_request_id(id_of(request.extensions())))
}

/// A path that exists, but not like this. Clients that try a web socket first go on without one
/// when they are told that they cannot have it.
async fn not_allowed(request: Request) -> Response<Body> {
    let (path, headers) = (request.uri().path(), request.headers());
    let is_socket = headers
        .get(header::UPGRADE)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let of_path = |route: &Route| route.paths().iter().any(|p| fits(p, path));
    let allowed = Route::ALL.into_iter().find(of_path).map_or("", Route::allowed);
    let error = ApiError::method_not_allowed(request.method().as_str(), allowed);
    let error = if is_socket {
        let message = "web sockets are not supported: use POST with \"stream\": true".to_owned();
        ApiError { status: 426, kind: ErrorKind::InvalidRequest, message, ..error }
    } else {
        error
    };
    let id = id_of(request.extensions());
    let mut response = reply::error(api_of(path, headers), &error.with_request_id(id));
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

/// Whether a path of the table is this one.
fn fits(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix("{*id}") {
        Some(start) => path.len() > start.len() && path.starts_with(start),
        None => pattern == path,
    }
}

/// A handler that panicked: its request is lost, the server goes on.
#[expect(clippy::needless_pass_by_value, reason = "called with the panic itself")]
fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response<Body> {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    tracing::error!("a request panicked: {text}");
    reply::error(Api::Chat, &ApiError::internal("internal error"))
}

#[derive(Clone, Copy)]
struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        HeaderValue::from_str(&format!("req_{}", new_id())).ok().map(RequestId::new)
    }
}

/// A base address that ends with a slash makes clients ask for `/v1//models`, and some add a slash
/// at the end.
async fn straighten(mut request: Request) -> Request {
    let path = request.uri().path();
    let is_straight = path == "/" || !(path.contains("//") || path.ends_with('/'));
    if !is_straight {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let query = request.uri().query().map_or_else(String::new, |query| format!("?{query}"));
        if let Ok(uri) = format!("/{}{query}", parts.join("/")).parse::<Uri>() {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// Ids that a client chose go to logs and headers: long or unprintable ones are not taken.
async fn drop_odd_id(mut request: Request) -> Request {
    let is_odd = |id: &HeaderValue| {
        id.len() > REQUEST_ID_BYTES_MAX || !id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    if request.headers().get(REQUEST_ID).is_some_and(is_odd) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// Anthropic's clients look for the id under another name.
async fn echo_id(mut response: Response<Body>) -> Response<Body> {
    let headers: &mut HeaderMap = response.headers_mut();
    if let Some(id) = headers.get(REQUEST_ID).cloned() {
        headers.insert("request-id", id);
    }
    response
}
