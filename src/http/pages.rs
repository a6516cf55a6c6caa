//! The console's routes.

use axum::Router;

use super::server::Door;

pub(super) fn router() -> Router<Door> {
    Router::new()
}
