//! A comparison of keys for people.

use super::{Grid, Paint, Tone, count, line, printable, seconds, several, written};
use crate::status::keys::{KeyDifference, KeysReport};

impl KeysReport {
    pub fn text(&self, paint: Paint) -> String {
        let mut grid = Grid::new(&["TABLE", "ROWS", "MISSING", "EXTRA", "OTHER VALUES"], 1);
        for table in &self.tables {
            let counts = [table.rows, table.missing, table.extra, table.different];
            let name = (printable(&written(&table.name)).into_owned(), Tone::Plain);
            let cells = counts.map(|number| (count(number), Tone::Plain));
            grid.row([name].into_iter().chain(cells).collect());
        }
        let mut text = grid.text(paint);
        for difference in &self.differences {
            line(&mut text, &format!("  {}", told(difference)));
        }
        let unlisted = self.differences_total.saturating_sub(self.differences.len() as u64);
        if unlisted > 0 {
            line(&mut text, &format!("  and {} more", count(unlisted)));
        }
        if self.misfits > 0 {
            let misfits = several(self.misfits, "misfit");
            line(&mut text, &format!("{misfits} kept in pgdiode.keyspace_misfit of the target"));
        }
        if self.unsettled > 0 {
            let keys = several(self.unsettled, "key");
            line(
                &mut text,
                &format!("{keys} could not be compared: they change too fast, or the target is behind"),
            );
        }
        if !self.is_running {
            line(&mut text, "nobody runs the pipeline: what was written since it stopped differs");
        }
        let verdict = if self.identical {
            paint.tone(Tone::Good, "keys and rows agree")
        } else {
            paint.bad("keys and rows differ")
        };
        let (keys, rows) = (several(self.keys, "key"), self.tables.iter().map(|table| table.rows).sum());
        line(&mut text, &format!("{verdict}: {keys}, {}, {}", several(rows, "row"), seconds(self.seconds)));
        text
    }
}

fn told(difference: &KeyDifference) -> String {
    let mut words = Vec::new();
    if let (Some(database), Some(key)) = (difference.database, &difference.key) {
        words.push(format!("{} (database {database})", printable(key)));
    }
    words.extend(difference.table.iter().map(|table| printable(table).into_owned()));
    words.extend(difference.row.iter().map(|row| format!("({})", printable(row))));
    let rows =
        if difference.rows > 1 { format!("{}: ", several(difference.rows, "row")) } else { String::new() };
    format!("{}: {rows}{}", words.join(" "), difference.kind.words())
}
