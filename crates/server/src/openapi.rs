//! The OpenAPI document: kept by hand for the documented path of each route, with the other paths
//! of the table added.

use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::reply;
use crate::route::Route;
use crate::server::Server;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document: Value =
        serde_json::from_str(include_str!("openapi.json")).expect("checked by a test");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    for route in Route::ALL {
        let [main, others @ ..] = route.paths() else { continue };
        let described = document["paths"][plain(main)].clone();
        for (ix, path) in others.iter().enumerate() {
            document["paths"][plain(path)] = renamed(&described, ix + 2);
        }
    }
    document
});

/// The document, with the numbers of the model that is served.
pub(crate) async fn document(State(server): State<Arc<Server>>) -> Response<Body> {
    let mut document = DOCUMENT.clone();
    let last = server.tokenizer().vocab().len().saturating_sub(1);
    document["components"]["schemas"]["TokenId"]["maximum"] = last.into();
    reply::json(StatusCode::OK, &document)
}

/// A path as the document writes it.
fn plain(path: &str) -> String {
    path.replace("{*id}", "{id}")
}

/// An operation under another path needs another id.
fn renamed(described: &Value, number: usize) -> Value {
    let mut described = described.clone();
    let operations = described.as_object_mut().into_iter().flatten();
    for (_, operation) in operations.filter(|(_, o)| o.get("operationId").is_some()) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        operation["operationId"] = json!(format!("{id}_{number}"));
    }
    described
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_and_the_table_agree() {
        let kept: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let described: BTreeSet<(String, String)> = kept["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys().filter(|k| *k != "parameters");
                methods.map(|method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        let served: BTreeSet<(String, String)> = Route::ALL
            .into_iter()
            .map(|route| (plain(route.paths()[0]), route.method().to_string()))
            .collect();
        assert_eq!(described, served);
        let all: BTreeSet<String> =
            Route::ALL.iter().flat_map(|r| r.paths()).map(|path| plain(path)).collect();
        let written: BTreeSet<String> =
            DOCUMENT["paths"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(written, all);
    }

    #[test]
    fn ids_are_unique_and_references_resolve() {
        let mut ids = BTreeSet::new();
        for item in DOCUMENT["paths"].as_object().unwrap().values() {
            for (_, operation) in item.as_object().unwrap() {
                if let Some(id) = operation["operationId"].as_str() {
                    assert!(ids.insert(id.to_owned()), "{id} twice");
                }
            }
        }
        check_references(&DOCUMENT);
    }

    fn check_references(value: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(DOCUMENT.pointer(pointer).is_some(), "{reference}");
                }
                fields.values().for_each(check_references);
            }
            Value::Array(list) => list.iter().for_each(check_references),
            _ => {}
        }
    }
}
