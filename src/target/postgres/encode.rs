//! Values into the two shapes in which the target takes them: rows of a COPY, parameters of a statement.

use bytes::{BufMut, BytesMut};

use crate::change::Value;
use crate::pg::copy_text::put_escaped;

/// A COPY's data is cut into frames of about this size.
const FRAME_BYTES: usize = 64 * 1024;

/// How the rows of one COPY are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    Text,
    Binary,
}

impl CopyFormat {
    pub fn sql(self) -> &'static str {
        match self {
            CopyFormat::Text => "text",
            CopyFormat::Binary => "binary",
        }
    }
}

/// A value that does not fit the COPY's format; its table is applied by statements instead.
#[derive(Debug, PartialEq, Eq)]
pub struct WrongFormat;

/// Writes the `CopyData` frames of one COPY to `out`.
pub struct CopyRows<'a> {
    out: &'a mut BytesMut,
    format: CopyFormat,
    /// Where the open frame's length word is.
    frame: usize,
    part: Part,
}

/// Which part of a COPY is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub first: bool,
    pub last: bool,
}

impl Part {
    pub const WHOLE: Part = Part { first: true, last: true };
}

impl<'a> CopyRows<'a> {
    /// The first rows of a COPY, or more of them: a long COPY is encoded and sent in parts.
    pub fn new(out: &'a mut BytesMut, format: CopyFormat, part: Part) -> CopyRows<'a> {
        let mut rows = CopyRows { out, format, frame: 0, part };
        rows.open_frame();
        if part.first && format == CopyFormat::Binary {
            rows.out.put_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        }
        rows
    }

    fn open_frame(&mut self) {
        self.out.put_u8(b'd');
        self.frame = self.out.len();
        self.out.put_u32(0);
    }

    fn close_frame(&mut self) {
        let length = u32::try_from(self.out.len() - self.frame).expect("a frame holds less than 4 GB");
        self.out[self.frame..self.frame + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Adds a row of `columns` values.
    pub fn row<'v>(
        &mut self,
        columns: usize,
        values: impl Iterator<Item = Value<'v>>,
    ) -> Result<(), WrongFormat> {
        match self.format {
            CopyFormat::Text => self.text_row(values)?,
            CopyFormat::Binary => self.binary_row(columns, values)?,
        }
        self.end_row();
        Ok(())
    }

    /// Adds a row of the text format that is encoded already: values that come first, with the tabulators behind them,
    /// and the others, up to the line feed.
    pub fn line(&mut self, first: &[u8], others: &[u8]) {
        self.out.put_slice(first);
        self.out.put_slice(others);
        self.end_row();
    }

    /// How many bytes wait to be sent.
    pub fn encoded(&self) -> usize {
        self.out.len()
    }

    fn end_row(&mut self) {
        if self.out.len() - self.frame > FRAME_BYTES {
            self.close_frame();
            self.open_frame();
        }
    }

    fn binary_row<'v>(
        &mut self,
        columns: usize,
        values: impl Iterator<Item = Value<'v>>,
    ) -> Result<(), WrongFormat> {
        self.out.put_i16(i16::try_from(columns).expect("a table has at most 1600 columns"));
        for value in values {
            match value {
                Value::Null => self.out.put_i32(-1),
                Value::Binary(bytes) => put_sized(self.out, bytes),
                Value::Text(_) | Value::Unchanged => return Err(WrongFormat),
            }
        }
        Ok(())
    }

    fn text_row<'v>(&mut self, values: impl Iterator<Item = Value<'v>>) -> Result<(), WrongFormat> {
        for (index, value) in values.enumerate() {
            if index > 0 {
                self.out.put_u8(b'\t');
            }
            match value {
                Value::Null => self.out.put_slice(b"\\N"),
                Value::Text(bytes) => put_escaped(self.out, bytes),
                Value::Binary(_) | Value::Unchanged => return Err(WrongFormat),
            }
        }
        self.out.put_u8(b'\n');
        Ok(())
    }

    /// Ends the part, and the COPY with the last one.
    pub fn finish(mut self) {
        if self.part.last && self.format == CopyFormat::Binary {
            self.out.put_i16(-1);
        }
        self.close_frame();
        if self.part.last {
            self.out.put_slice(b"c\x00\x00\x00\x04");
        }
    }
}

fn put_sized(out: &mut BytesMut, bytes: &[u8]) {
    out.put_i32(i32::try_from(bytes.len()).expect("a value is smaller than 1 GB"));
    out.put_slice(bytes);
}

/// Appends `Bind` (to the unnamed portal) and `Execute` of prepared statement `statement`.
pub fn bind_and_execute(out: &mut BytesMut, statement: &str, parameters: &[Value<'_>]) {
    out.put_u8(b'B');
    let start = out.len();
    out.put_u32(0);
    out.put_u8(0);
    out.put_slice(statement.as_bytes());
    out.put_u8(0);
    let count = i16::try_from(parameters.len()).expect("checked when the statement was made");
    out.put_i16(count);
    for parameter in parameters {
        out.put_i16(i16::from(matches!(parameter, Value::Binary(_))));
    }
    out.put_i16(count);
    for parameter in parameters {
        match parameter {
            Value::Null => out.put_i32(-1),
            Value::Text(bytes) | Value::Binary(bytes) => put_sized(out, bytes),
            Value::Unchanged => unreachable!("unchanged values are left out of statements"),
        }
    }
    out.put_i16(0);
    let length = u32::try_from(out.len() - start).expect("a row is smaller than 4 GB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    out.put_slice(b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_rows_are_escaped() {
        let mut out = BytesMut::new();
        let mut rows = CopyRows::new(&mut out, CopyFormat::Text, Part::WHOLE);
        let values = [Value::Text(b"a\tb\\N\r\n"), Value::Null, Value::Text(b""), Value::Text(b"\\.")];
        rows.row(4, values.into_iter()).unwrap();
        rows.finish();
        let expected = b"a\\tb\\\\N\\r\\n\t\\N\t\t\\\\.\n";
        assert_eq!(&out[..], [b"d\x00\x00\x00\x18", &expected[..], b"c\x00\x00\x00\x04"].concat());
    }

    #[test]
    fn frames_hold_whole_rows_and_true_lengths() {
        let mut out = BytesMut::new();
        let mut rows = CopyRows::new(&mut out, CopyFormat::Binary, Part::WHOLE);
        let value = vec![7; 30_000];
        for _ in 0..10 {
            rows.row(2, [Value::Binary(&value), Value::Null].into_iter()).unwrap();
        }
        rows.finish();
        let (mut at, mut frames, mut bytes) = (0, 0, 0);
        while out[at] == b'd' {
            let length = u32::from_be_bytes(out[at + 1..at + 5].try_into().unwrap()) as usize;
            bytes += length - 4;
            frames += 1;
            at += length + 1;
        }
        assert_eq!(&out[at..], b"c\x00\x00\x00\x04");
        assert_eq!(bytes, 19 + 10 * (2 + 4 + 30_000 + 4) + 2);
        assert!(frames > 3);
    }

    #[test]
    fn a_value_of_the_other_format_is_refused() {
        let mut out = BytesMut::new();
        let mut rows = CopyRows::new(&mut out, CopyFormat::Binary, Part::WHOLE);
        assert_eq!(rows.row(1, [Value::Text(b"1")].into_iter()), Err(WrongFormat));
    }
}
