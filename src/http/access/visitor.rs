//! Who is asking, as handlers see it.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;

use crate::credentials::{Right, Role};
use crate::http::problem::Problem;

/// Whoever sent a request; the layer of [`Access`](super::Access) puts it there. A handler takes it as an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    pub name: String,
    pub role: Role,
    pub by: By,
    /// Where the request came from: the connection's other end, or what a trusted proxy says that its client was.
    pub address: IpAddr,
    /// The only pipelines that it may see, where it is a token with a scope.
    pub pipelines: Option<Vec<String>>,
    /// What the hidden field `csrf` of each form must hold; `None` for a token, which needs none.
    pub csrf: Option<String>,
}

/// How it was known who that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By being on this host, where nobody signs in.
    Local,
    /// By having signed in at the console.
    Session,
    Token,
    /// By name and password with each request.
    Basic,
    /// By what a trusted proxy says.
    Proxy,
}

impl By {
    pub fn as_str(self) -> &'static str {
        match self {
            By::Local => "local",
            By::Session => "console",
            By::Token => "token",
            By::Basic => "password",
            By::Proxy => "proxy",
        }
    }
}

impl Visitor {
    pub fn may(&self, right: Right) -> bool {
        self.role.may(right)
    }

    /// Refuses with 403 whoever may not.
    pub fn must(&self, right: Right) -> Result<(), Problem> {
        if self.may(right) {
            return Ok(());
        }
        let what = match right {
            Right::Look => "look at this",
            Right::Act => "change anything",
            Right::Audit => "see the audit log",
        };
        let detail = format!("{} has the role {} and may not {what}", self.name, self.role.as_str());
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "That is not yours to do", detail)
            .hint("roles are given by `operators` and `auditors` in [server], and to tokens in their file"))
    }

    /// Whether a pipeline is within its scope. What is not must be answered as if it did not exist.
    pub fn sees(&self, pipeline: &str) -> bool {
        self.pipelines.as_ref().is_none_or(|scope| scope.iter().any(|name| name == pipeline))
    }

    /// For the audit log: `alice (console, 127.0.0.1)`.
    pub fn actor(&self) -> String {
        format!("{} ({}, {})", self.name, self.by.as_str(), self.address)
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Problem;

    /// Only what is outside of the layer, or open to everybody, has none.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let missing =
            || Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Sign in first", "nobody is signed in");
        parts.extensions.get::<Visitor>().cloned().ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(role: Role, pipelines: Option<&[&str]>) -> Visitor {
        Visitor {
            name: "alice".to_owned(),
            role,
            by: By::Session,
            address: "127.0.0.1".parse().unwrap(),
            pipelines: pipelines.map(|names| names.iter().map(ToString::to_string).collect()),
            csrf: None,
        }
    }

    #[test]
    fn each_role_may_what_is_its_own() {
        let may = |role| [Right::Look, Right::Act, Right::Audit].map(|right| visitor(role, None).may(right));
        assert_eq!(may(Role::Viewer), [true, false, false]);
        assert_eq!(may(Role::Operator), [true, true, true]);
        assert_eq!(may(Role::Auditor), [true, false, true]);
        let refused = visitor(Role::Auditor, None).must(Right::Act).unwrap_err();
        assert_eq!(
            (refused.status, refused.detail.as_str()),
            (403, "alice has the role auditor and may not change anything")
        );
    }

    #[test]
    fn a_scope_is_all_that_is_seen() {
        assert!(visitor(Role::Viewer, None).sees("main"));
        assert!(visitor(Role::Viewer, Some(&["main"])).sees("main"));
        assert!(!visitor(Role::Viewer, Some(&["main"])).sees("other"));
        assert!(!visitor(Role::Viewer, Some(&[])).sees("main"));
    }

    #[test]
    fn the_audit_log_hears_who_and_from_where() {
        assert_eq!(visitor(Role::Operator, None).actor(), "alice (console, 127.0.0.1)");
    }
}
