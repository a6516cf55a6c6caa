//! Pages for people: pure functions from what a daemon knows to HTML.
//!
//! A page is whole without JavaScript; `console.js` only replaces the parts marked `data-live` when something has
//! changed, with what the same address answers to `X-Fragment: live` (then [`Viewer::is_fragment`] is set, and a page
//! leaves out its frame). Nothing here asks, decides or changes anything: forms name routes, `server` answers them.
//!
//! | Page | Address |
//! |---|---|
//! | [`overview`] | `/` |
//! | [`pipeline`] | `/pipelines/{name}` and below it what [`Tab::of_path`] knows |
//! | [`run`] | `/runs/{id}` |
//! | [`audit`] | `/audit` |
//! | [`settings`] | `/settings` |
//! | [`problem`] | wherever something went wrong |
//! | [`asset`] | `/assets/{name}` |

mod action;
mod assets;
mod audit;
mod chart;
mod history;
mod list;
mod overview;
mod pipeline;
mod problem;
mod run;
mod schema;
mod settings;
mod shell;
mod storage;
mod tables;
mod words;

pub use assets::{Asset, asset, asset_url};
pub use audit::{AuditPage, AuditQuery, audit};
pub use history::{Beside, HistoryQuery, HistoryRecord, csv, history_records};
pub use list::Query;
pub use overview::overview;
pub use pipeline::{Tab, pipeline};
pub use problem::{ProblemPage, problem};
pub use run::run;
pub use settings::{Certificate, Section, SettingsPage, settings};
pub use shell::{Flash, Viewer};
