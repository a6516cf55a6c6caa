//! An entry for a schema of another name, where that is plain to see: an index or a key that names nothing but its own
//! table and what the server has from the start. Of any other text it is not known what a name in it means.

use std::collections::BTreeMap;

use super::entry::{Entry, EntryKind};
use super::scan::{self, Token, TokenKind};
use crate::pg::quote;

impl Entry {
    /// The entry with its table in the schema that `schemas` has for it.
    pub fn elsewhere(&self, schemas: &BTreeMap<String, String>) -> Option<Entry> {
        if !matches!(self.kind, EntryKind::Index | EntryKind::Constraint) {
            return None;
        }
        let table = self.table.as_ref()?;
        let schema = quote::identifier(schemas.get(&table.schema)?);
        let tokens: Vec<Token<'_>> = scan::tokens(&self.sql).filter(Token::counts).collect();
        let mut sql = String::with_capacity(self.sql.len() + schema.len());
        let mut copied = 0;
        for (at, token) in tokens.iter().enumerate() {
            // The text of a regclass, say, would have to be qualified.
            if token.kind == TokenKind::Literal && token.text.contains('.') {
                return None;
            }
            let is_qualifier = tokens.get(at + 1).is_some_and(|next| next.is_symbol("."));
            let (true, Some(name)) = (is_qualifier, token.name()) else { continue };
            if name == "pg_catalog" {
                continue;
            }
            if name != table.schema || tokens.get(at + 2)?.name()? != table.name {
                return None;
            }
            sql.push_str(&self.sql[copied..token.start]);
            sql.push_str(&schema);
            copied = token.end();
        }
        sql.push_str(&self.sql[copied..]);
        (copied > 0).then(|| Entry { sql, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::TableName;

    fn moved(kind: EntryKind, sql: &str) -> Option<String> {
        let entry = Entry {
            kind,
            schema: Some("public".into()),
            name: "i".into(),
            settings: Vec::new(),
            sql: sql.into(),
            table: Some(TableName::new("public", "t")),
            referenced_table: None,
        };
        let schemas = BTreeMap::from([("public".to_owned(), "public_shadow_1".to_owned())]);
        entry.elsewhere(&schemas).map(|entry| entry.sql)
    }

    #[test]
    fn an_index_on_its_table_alone_moves() {
        for (sql, expected) in [
            (
                "CREATE INDEX i ON public.t USING btree (a);",
                "CREATE INDEX i ON \"public_shadow_1\".t USING btree (a);",
            ),
            (
                "CREATE INDEX i ON ONLY \"public\".\"t\" USING btree (lower(a)) WHERE (b = 'public'::text);",
                "CREATE INDEX i ON ONLY \"public_shadow_1\".\"t\" USING btree (lower(a)) WHERE (b = 'public'::text);",
            ),
            (
                "ALTER TABLE ONLY public.t ADD CONSTRAINT i PRIMARY KEY (a);\nALTER TABLE public.t CLUSTER ON i;",
                "ALTER TABLE ONLY \"public_shadow_1\".t ADD CONSTRAINT i PRIMARY KEY (a);\nALTER TABLE \"public_shadow_1\".t CLUSTER ON i;",
            ),
        ] {
            assert_eq!(moved(EntryKind::Index, sql).as_deref(), Some(expected));
        }
        assert!(moved(EntryKind::Trigger, "CREATE TRIGGER i BEFORE INSERT ON public.t;").is_none());
    }

    #[test]
    fn what_may_mean_something_else_does_not() {
        for sql in [
            "CREATE INDEX i ON public.t USING gin (a public.gin_trgm_ops);",
            "CREATE INDEX i ON public.t USING btree (other.f(a));",
            "CREATE INDEX i ON public.t USING btree (a) WHERE (b > nextval('public.s'::regclass));",
            "CREATE INDEX i ON public.t2 USING btree (a);",
            "ALTER TABLE ONLY public.t ADD CONSTRAINT i EXCLUDE USING gist (a WITH OPERATOR(public.=));",
        ] {
            assert_eq!(moved(EntryKind::Constraint, sql), None, "{sql}");
        }
    }
}
