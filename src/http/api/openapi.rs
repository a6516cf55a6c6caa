//! `/openapi.json`: what the API takes and answers, made from the handlers themselves.

use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, OpenApi as Document, PathItem, Ref, RefOr, ResponseBuilder};

use super::{audit, events, pipelines, runs, seeds};
use crate::http::problem;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "pgdiode",
        description = "Moves data one way, provably intact, into a PostgreSQL you own. What goes wrong is answered as \
                       problem details (RFC 9457) with the hint that the command line gives. What takes a while is \
                       answered with 202 and the address of its run."
    ),
    paths(
        pipelines::fleet,
        pipelines::list,
        pipelines::show,
        pipelines::tables,
        pipelines::samples,
        pipelines::drift,
        pipelines::compare,
        pipelines::check,
        pipelines::generations,
        pipelines::sync,
        pipelines::verify,
        pipelines::resync,
        pipelines::rollback,
        pipelines::pause,
        pipelines::resume,
        pipelines::configuration,
        pipelines::reload,
        runs::list,
        runs::show,
        runs::cancel,
        events::of_fleet,
        events::of_run,
        audit::list,
        audit::verify,
        audit::export,
        seeds::manual,
        seeds::status,
        seeds::session,
        seeds::compare,
    ),
    components(schemas(problem::Details)),
    tags(
        (name = "pipelines", description = "How pipelines do"),
        (name = "orders", description = "What is to be done with a pipeline"),
        (name = "runs", description = "What was asked for and takes a while"),
        (name = "sync", description = "Routes that other programs know already"),
        (name = "audit", description = "Who had what done"),
        (name = "events", description = "Server-sent events"),
        (name = "daemon", description = "The process that answers"),
    )
)]
struct Described;

/// The whole description.
pub fn document() -> Document {
    let mut document = Described::openapi();
    let problem = ResponseBuilder::new()
        .description("What went wrong, and what to do")
        .content(problem::CONTENT_TYPE, Content::new(Some(Ref::from_schema_name("Problem"))))
        .build();
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        operation.responses.responses.insert("default".into(), RefOr::T(problem.clone()));
    }
    let components = document.components.get_or_insert_default();
    for (name, scheme) in [("token", HttpAuthScheme::Bearer), ("password", HttpAuthScheme::Basic)] {
        let scheme = SecurityScheme::Http(Http::new(scheme));
        components.security_schemes.insert(name.into(), scheme.into());
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post].into_iter().filter_map(Option::as_mut)
}

pub(super) async fn show() -> Json<Document> {
    Json(document())
}
