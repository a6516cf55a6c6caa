//! Long lists: what is searched for, and a page of what is found.

use serde::Deserialize;

use super::words::segment;

/// What the address of a list says after its question mark; whatever it says, there is a page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Query {
    /// A part of a name, in any case.
    pub q: String,
    /// A word of [`Health`](crate::status::fleet::Health); all of them where it is none.
    pub health: String,
    /// From 1 on.
    pub page: String,
}

/// Rows of one page of a list.
pub(super) const PAGE: usize = 100;

/// Where one is in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pager {
    pub total: usize,
    /// From 1 on; 0 in an empty list.
    pub first: usize,
    pub last: usize,
    pub page: usize,
    pub pages: usize,
    pub previous: Option<String>,
    pub next: Option<String>,
}

impl Query {
    pub(super) fn matches(&self, text: &str) -> bool {
        text.to_lowercase().contains(&self.q.trim().to_lowercase())
    }

    pub(super) fn is_narrowed(&self) -> bool {
        !self.q.trim().is_empty() || !self.health.is_empty()
    }

    /// The same list with another page or state.
    pub(super) fn href(&self, path: &str, health: &str, page: usize) -> String {
        let mut fields = Vec::new();
        if !self.q.trim().is_empty() {
            fields.push(format!("q={}", segment(self.q.trim())));
        }
        if !health.is_empty() {
            fields.push(format!("health={}", segment(health)));
        }
        if page > 1 {
            fields.push(format!("page={page}"));
        }
        if fields.is_empty() { path.to_owned() } else { format!("{path}?{}", fields.join("&")) }
    }

    /// The page that is asked for, or the nearest that there is.
    pub(super) fn page<T>(&self, items: Vec<T>, path: &str) -> (Vec<T>, Pager) {
        paged(items, &self.page, |page| self.href(path, &self.health, page))
    }
}

/// The page that is asked for, or the nearest that there is; `to` is the address of another one.
pub(super) fn paged<T>(mut items: Vec<T>, asked: &str, to: impl Fn(usize) -> String) -> (Vec<T>, Pager) {
    let total = items.len();
    let pages = total.div_ceil(PAGE).max(1);
    let page = asked.trim().parse().unwrap_or(1).clamp(1, pages);
    let before = (page - 1) * PAGE;
    let rows: Vec<T> = items.drain(before..(before + PAGE).min(total)).collect();
    let pager = Pager {
        total,
        first: before + usize::from(total > 0),
        last: before + rows.len(),
        page,
        pages,
        previous: (page > 1).then(|| to(page - 1)),
        next: (page < pages).then(|| to(page + 1)),
    };
    (rows, pager)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(q: &str, page: &str) -> Query {
        Query { q: q.into(), page: page.into(), ..Query::default() }
    }

    #[test]
    fn a_page_is_whatever_is_nearest_to_what_was_asked_for() {
        for (items, asked, first, last, page) in [
            (0, "1", 0, 0, 1),
            (100, "2", 1, 100, 1),
            (101, "2", 101, 101, 2),
            (250, "99", 201, 250, 3),
            (250, "0", 1, 100, 1),
            (250, "-1", 1, 100, 1),
            (250, "x", 1, 100, 1),
        ] {
            let (rows, pager) = query("", asked).page((1..=items).collect(), "/");
            assert_eq!((pager.first, pager.last, pager.page), (first, last, page), "{items} {asked}");
            assert_eq!(rows.first().copied().unwrap_or(0), first, "{items} {asked}");
            assert_eq!(rows.last().copied().unwrap_or(0), last, "{items} {asked}");
        }
    }

    #[test]
    fn other_pages_keep_what_is_searched_for() {
        let query = Query { q: " a&b ".into(), health: "failed".into(), page: "2".into() };
        let (_, pager) = query.page(vec![0; 300], "/");
        assert_eq!(pager.previous.as_deref(), Some("/?q=a%26b&health=failed"));
        assert_eq!(pager.next.as_deref(), Some("/?q=a%26b&health=failed&page=3"));
        assert!(query.matches("xA&By") && !query.matches("ab"));
    }
}
