//! The console's routes: what a page needs is looked up and handed to [`console`]; a form becomes an order, and leads
//! to where one sees what became of it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Form, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use super::access::{By, Right, Visitor, accepts};
use super::api;
use super::console::{
    self, AuditPage, AuditQuery, Beside, Certificate, Flash, HistoryQuery, ProblemPage, Section,
    SettingsPage, Tab, Viewer,
};
use super::door::Door;
use super::problem::{Problem, as_page};
use crate::config::Mode;
use crate::daemon::Order;
use crate::error::Error;
use crate::schedule::utc;
use crate::status::fleet::{Overview, Run};

/// Entries of the audit log that its page looks through.
const AUDIT_ENTRIES: u32 = 500;
const FLASH: &str = "pgdiode-flash";

pub(super) fn router() -> Router<Door> {
    Router::new()
        .route("/", get(overview))
        .route("/events", get(api::of_fleet))
        .route("/pipelines/{name}", get(pipeline))
        .route("/pipelines/{name}/{tab}", get(tab).post(act))
        .route("/runs/{id}", get(run))
        .route("/runs/{id}/cancel", post(cancel))
        .route("/audit", get(audit))
        .route("/audit/verify", post(verify_audit))
        .route("/settings", get(settings))
}

/// What anybody may have: how the pages look.
pub fn assets() -> Router<Door> {
    Router::new().route("/assets/{name}", get(asset))
}

async fn asset(Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    let asset = console::asset(&name).ok_or_else(|| not_found("there is no such file"))?;
    // Such an address changes with its content.
    let is_versioned = uri.path_and_query().is_some_and(|asked| asked.as_str() == console::asset_url(&name));
    let keep = if is_versioned { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = [(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, keep)];
    Ok((headers, asset.body).into_response())
}

fn not_found(what: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here", what)
}

/// Whatever is at none of the addresses.
pub async fn nothing(uri: Uri) -> Problem {
    not_found(&format!("nothing is at {}", uri.path()))
}

// ---- who looks ----

fn viewer(visitor: &Visitor, headers: &HeaderMap) -> Viewer {
    Viewer {
        name: if visitor.by == By::Local { String::new() } else { visitor.name.clone() },
        may_act: visitor.may(Right::Act),
        may_audit: visitor.may(Right::Audit),
        csrf: visitor.csrf.clone().unwrap_or_default(),
        form_key: form_key(),
        flash: flash_of(headers),
        may_sign_out: visitor.by == By::Session,
        is_fragment: headers.get("x-fragment").is_some_and(|part| part == "live"),
    }
}

/// New for each page: a form that is sent twice is one order.
fn form_key() -> String {
    let mut bytes = [0; 12];
    // Without one, each sending is an order of its own.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    data_encoding::HEXLOWER.encode(&bytes)
}

/// A page that shows a message takes its cookie away.
fn page(viewer: &Viewer, made: crate::error::Result<String>) -> Result<Response, Problem> {
    let mut response = Html(made?).into_response();
    if viewer.flash.is_some() && !viewer.is_fragment {
        let gone = format!("{FLASH}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict");
        response
            .headers_mut()
            .extend(HeaderValue::from_str(&gone).ok().map(|gone| (header::SET_COOKIE, gone)));
    }
    Ok(response)
}

fn flash_of(headers: &HeaderMap) -> Option<Flash> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let mut pairs =
        cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, text) = pairs.find(|(name, text)| *name == FLASH && !text.is_empty())?;
    let text = String::from_utf8(data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok()?).ok()?;
    Some(Flash { is_bad: false, text, hint: None })
}

/// Leads on, and says there what was done.
fn leads_to(address: &str, says: &str) -> Response {
    let text = data_encoding::BASE64URL_NOPAD.encode(says.as_bytes());
    let cookie = format!("{FLASH}={text}; Path=/; Max-Age=60; HttpOnly; SameSite=Strict");
    ([(header::SET_COOKIE, cookie)], Redirect::to(address)).into_response()
}

/// Shows problems to people as pages of the console.
pub async fn show_problems(State(door): State<Door>, request: Request, next: Next) -> Response {
    let wants_page = accepts(request.headers(), "text/html");
    let visitor = request.extensions().get::<Visitor>().cloned();
    let mut response = next.run(request).await;
    let problem = response.extensions_mut().remove::<Problem>();
    let (Some(problem), Some(visitor), true) = (problem, visitor, wants_page) else { return response };
    let Some(text) = problem_page(&door, &visitor, &problem) else { return response };
    as_page(text, &response)
}

fn problem_page(door: &Door, visitor: &Visitor, problem: &Problem) -> Option<String> {
    let run = problem.members.get("run").and_then(|id| id.as_str());
    let shown = ProblemPage {
        status: problem.status,
        title: problem.title.clone(),
        detail: problem.detail.clone(),
        hint: problem.hint.clone(),
        link: run.map(|id| (format!("/runs/{id}"), "the run that is under way".into())),
    };
    console::problem(Some(&door.fleet_of(visitor)), &shown, &viewer(visitor, &HeaderMap::new())).ok()
}

// ---- pages ----

async fn overview(
    State(door): State<Door>,
    visitor: Visitor,
    Query(query): Query<console::Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let viewer = viewer(&visitor, &headers);
    page(&viewer, console::overview(&door.fleet_of(&visitor), &query, &viewer))
}

async fn pipeline(
    door: State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
    query: Query<console::Query>,
    asked: Query<HistoryQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    tab(door, visitor, Path((name, String::new())), query, asked, headers).await
}

async fn tab(
    State(door): State<Door>,
    visitor: Visitor,
    Path((name, tab)): Path<(String, String)>,
    Query(query): Query<console::Query>,
    Query(asked): Query<HistoryQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let one = api::seen(&door, &visitor, &name)?;
    let tab = Tab::of_path(&tab).ok_or_else(|| not_found("a pipeline has no such page"))?;
    let pipeline = door.daemon.pipeline(&name)?;
    let is_history = tab == Tab::Runs;
    let is_shown_now = tab == Tab::Now && pipeline.mode == Mode::Snapshot;
    let kept = if is_history || is_shown_now { door.lookups.of(&pipeline).await } else { Arc::default() };
    let mut one = door.with_ended_runs(&one);
    if is_history {
        let of_others = kept.asked.iter().filter(|run| one.runs.iter().all(|known| known.id != run.id));
        let of_others: Vec<Run> = of_others.cloned().collect();
        one.runs.extend(of_others);
    }
    let beside = Beside { generations: &kept.generations, runs: &kept.runs, history: asked };
    if is_history && !beside.history.format.is_empty() {
        return file(&one, &beside);
    }
    let viewer = viewer(&visitor, &headers);
    page(&viewer, console::pipeline(&door.fleet_of(&visitor), &one, tab, &query, &beside, &viewer))
}

/// The history as a file.
fn file(one: &Overview, beside: &Beside<'_>) -> Result<Response, Problem> {
    let records = console::history_records(one, beside);
    let (content_type, end, body) = match beside.history.format.as_str() {
        "csv" => ("text/csv; charset=utf-8; header=present", "csv", console::csv(&records)),
        "json" => {
            let json = serde_json::to_string_pretty(&records)
                .map_err(|error| Error::unexpected("the history is no JSON").because(error))?;
            ("application/json", "json", json)
        }
        other => {
            let what = format!("there is no format \"{other}\"");
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "no-such-format",
                "There is no such format",
                what,
            )
            .hint("ask for format=csv or format=json"));
        }
    };
    // A name of its own is the browser's to make harmless: what it is not sure of, it replaces.
    let name: String =
        one.name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    let disposition = format!("attachment; filename=\"{name}-history.{end}\"");
    Ok(([(header::CONTENT_TYPE, content_type.to_owned()), (header::CONTENT_DISPOSITION, disposition)], body)
        .into_response())
}

async fn run(
    State(door): State<Door>,
    visitor: Visitor,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run = api::run_found(&door, &visitor, &id).await?;
    // A reload may have taken the pipeline away; its runs are remembered.
    let kept = match door.daemon.pipeline(&run.pipeline) {
        Ok(pipeline) if matches!(run.verb.as_str(), "sync" | "rollback") => door.lookups.of(&pipeline).await,
        _ => Arc::default(),
    };
    let beside =
        Beside { generations: &kept.generations, runs: &kept.runs, history: HistoryQuery::default() };
    let viewer = viewer(&visitor, &headers);
    page(&viewer, console::run(&door.fleet_of(&visitor), &run, &beside, &viewer))
}

async fn settings(
    State(door): State<Door>,
    visitor: Visitor,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let sections = door.configuration_of(&visitor).into_iter().map(|section| Section {
        title: section.section,
        values: section
            .values
            .into_iter()
            .map(|setting| (setting.key, setting.value.unwrap_or_else(|| "unset".into())))
            .collect(),
    });
    let shown = SettingsPage {
        path: door.daemon.configured_by().map(|path| path.display().to_string()),
        sections: sections.collect(),
        certificates: certificate(&door).into_iter().collect(),
        versions: Vec::new(),
    };
    let viewer = viewer(&visitor, &headers);
    page(&viewer, console::settings(&door.fleet_of(&visitor), &shown, &viewer))
}

/// The one that the door shows. Its names come from its file, which may hold another one by now: then it says so.
fn certificate(door: &Door) -> Option<Certificate> {
    let expires_at = door.fleet().instance.certificate_expires_at.clone()?;
    let options = door.daemon.server_options()?;
    let in_the_file = options.certificate_validity().map(|validity| utc(validity.until));
    let is_shown = in_the_file.as_ref() == Some(&expires_at);
    let names = options.certificate_names().filter(|_| is_shown);
    let (subject, issuer) = names.map_or_else(Default::default, |names| (names.subject, names.issuer));
    Some(Certificate {
        of: "This door".into(),
        subject,
        issuer,
        expires_at,
        waiting: in_the_file.filter(|_| !is_shown),
    })
}

// ---- the audit log ----

async fn audit(
    State(door): State<Door>,
    visitor: Visitor,
    Query(mut query): Query<AuditQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    visitor.must(Right::Audit)?;
    let fleet = door.fleet_of(&visitor);
    if query.pipeline.is_empty() {
        query.pipeline = fleet.pipelines.first().map(|one| one.name.clone()).unwrap_or_default();
    }
    let read = match query.pipeline.as_str() {
        "" => Ok(Vec::new()),
        name => api::audit_latest(&door, &visitor, name, AUDIT_ENTRIES).await,
    };
    let (entries, problem) = match read {
        Ok(entries) => (entries, None),
        Err(problem) if problem.status == 404 => return Err(problem),
        Err(problem) => (Vec::new(), Some((problem.detail.clone(), problem.hint.clone()))),
    };
    let checked = door.checked(&query.pipeline);
    let shown = AuditPage {
        entries: &entries,
        verified: checked.as_ref().map(|(report, at)| (&**report, at.as_str())),
        problem,
        export_url: format!("/api/v1/pipelines/{}/audit/export", query.pipeline),
    };
    let viewer = viewer(&visitor, &headers);
    page(&viewer, console::audit(&fleet, &shown, &query, &viewer))
}

async fn verify_audit(
    State(door): State<Door>,
    visitor: Visitor,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    let fleet = door.fleet_of(&visitor);
    let named = field(&fields, "pipeline").map(str::to_owned);
    let name = named.or_else(|| fleet.pipelines.first().map(|one| one.name.clone()));
    let name = name.ok_or_else(|| not_found("no pipeline has a log"))?;
    let report = api::audit_verified(&door, &visitor, &name).await?;
    door.was_checked(&name, report);
    Ok(leads_to(&format!("/audit?pipeline={name}"), "The log was checked."))
}

// ---- forms ----

/// A form's fields, each as often as it came.
type Fields = Vec<(String, String)>;

fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let found = fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.trim());
    found.filter(|value| !value.is_empty())
}

/// People say why.
fn reason(fields: &Fields) -> Result<Option<String>, Problem> {
    field(fields, "reason").map(|reason| Some(reason.to_owned())).ok_or_else(|| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "reason-missing",
            "A reason is needed",
            "the form has no reason",
        )
        .hint("go back and say why: it is kept in the audit log")
    })
}

/// What cannot be taken back needs the pipeline's name, typed.
fn confirmed(fields: &Fields, name: &str) -> Result<(), Problem> {
    if field(fields, "confirm") == Some(name) {
        return Ok(());
    }
    let what = format!("\"{name}\" was not typed to confirm");
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not-confirmed", "It was not confirmed", what)
        .hint("go back and type the pipeline's name"))
}

async fn act(
    State(door): State<Door>,
    visitor: Visitor,
    Path((name, verb)): Path<(String, String)>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    visitor.must(Right::Act)?;
    api::seen(&door, &visitor, &name)?;
    let tables = || fields.iter().filter(|(key, _)| key == "table").map(|(_, table)| table.clone()).collect();
    let order = match verb.as_str() {
        "pause" | "resume" => {
            let is_paused = verb == "pause";
            api::set_paused(&door, &visitor, &name, reason(&fields)?, is_paused).await?;
            let says = if is_paused { "The pipeline is paused." } else { "The pipeline may run again." };
            return Ok(leads_to(&format!("/pipelines/{name}"), says));
        }
        "schema" => {
            api::compare_schemas(&door, &visitor, &name)?;
            return Ok(leads_to(&format!("/pipelines/{name}/schema"), "Both sides are being looked at."));
        }
        "sync" => Order::Sync { adopt: false, accept_losses: false },
        "verify" => Order::Verify { tables: tables() },
        "resync" => match field(&fields, "key") {
            Some(key) => Order::Key { database: 0, key: key.as_bytes().to_vec() },
            None => Order::Resync { tables: tables() },
        },
        "rollback" => {
            confirmed(&fields, &name)?;
            let generation = field(&fields, "generation").map(str::parse).transpose();
            let generation =
                generation.map_err(|_| Problem::of(&Error::config("a generation is a number")))?;
            Order::Rollback { generation }
        }
        _ => return Err(not_found("a pipeline takes no such form")),
    };
    let key = field(&fields, "idempotency_key").map(|key| format!("{name}/{key}"));
    let id = api::ordered(&door, &visitor, &name, order, "console", reason(&fields)?, key).await?;
    Ok(leads_to(&format!("/runs/{id}"), "It has begun."))
}

async fn cancel(
    State(door): State<Door>,
    visitor: Visitor,
    Path(id): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    let run = api::run_seen(&door, &visitor, &id)?;
    confirmed(&fields, &run.pipeline)?;
    api::cancelled(&door, &visitor, &id, reason(&fields)?)?;
    Ok(leads_to(&format!("/runs/{id}"), "It was asked to end."))
}
