//! The status of a pipeline made from a syncdata file, in the lines that syncdata prints.

use super::text::printable;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncdataStatus {
    /// Whether a process works on it.
    pub is_active: bool,
    pub frequency_seconds: u64,
    /// When the last run began, RFC 3339.
    pub start_time: Option<String>,
    /// When a file was last applied, RFC 3339.
    pub last_sync: Option<String>,
    /// All that are in the log.
    pub records_synced: u64,
    pub errors: u64,
    /// As `tables_to_sync` has them.
    pub tables: Vec<String>,
}

impl SyncdataStatus {
    pub fn text(&self) -> String {
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "never".to_owned());
        let mut text = format!(
            "status: {}\nsync frequency: {} seconds\nstart time: {}\nlast sync: {}\nrecords synced: {}\nerrors: {}\n\n\
             synced tables ({}):\n",
            if self.is_active { "active" } else { "inactive" },
            self.frequency_seconds,
            time(&self.start_time),
            time(&self.last_sync),
            self.records_synced,
            self.errors,
            self.tables.len()
        );
        for table in &self.tables {
            text.push_str(&format!("  - {}\n", printable(table)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_syncdata_prints() {
        let status = SyncdataStatus {
            is_active: true,
            frequency_seconds: 600,
            start_time: Some("2026-02-05T10:30:00Z".into()),
            last_sync: Some("2026-02-05T10:45:00Z".into()),
            records_synced: 1234,
            errors: 0,
            tables: vec!["users".into(), "orders".into(), "products".into()],
        };
        let expected = "status: active\nsync frequency: 600 seconds\nstart time: 2026-02-05T10:30:00Z\n\
                        last sync: 2026-02-05T10:45:00Z\nrecords synced: 1234\nerrors: 0\n\nsynced tables (3):\n\
                        \x20 - users\n  - orders\n  - products\n";
        assert_eq!(status.text(), expected);
        let never = SyncdataStatus { frequency_seconds: 60, ..SyncdataStatus::default() };
        assert!(
            never.text().starts_with("status: inactive\nsync frequency: 60 seconds\nstart time: never\n")
        );
    }
}
