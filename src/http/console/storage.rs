//! What a target's database takes, and when its volume will be full.

use crate::status::fleet::{Overview, Storage};
use crate::status::text;

use super::chart::{Chart, Line, Mark, Pick, Point, Unit, gauge, line};
use super::words::{Clock, Markup, Tone, rough_days};

pub(super) struct StorageView {
    pub size: String,
    pub volume: Option<String>,
    pub share: Option<String>,
    pub gauge: Option<Markup>,
    pub growth: Option<String>,
    pub forecasts: Vec<Forecast>,
    pub chart: Option<Chart>,
    pub tables: Vec<SizeRow>,
}

pub(super) struct Forecast {
    pub level: &'static str,
    pub tone: Tone,
    pub when: String,
    pub on: Option<Markup>,
}

pub(super) struct SizeRow {
    pub name: String,
    pub size: String,
    pub rows: String,
    pub share: Markup,
}

const DAY: f64 = 86_400.0;
/// How far ahead a slope of a day is drawn.
const AHEAD_DAYS: f64 = 30.0;

/// Levels of a volume that somebody should know of.
const LEVELS: [(&str, f64, Tone); 3] =
    [("70 %", 0.70, Tone::Warn), ("85 %", 0.85, Tone::Bad), ("95 %", 0.95, Tone::Bad)];

#[allow(clippy::cast_precision_loss)] // sizes are drawn and shown in three digits
pub(super) fn storage(pipeline: &Overview, clock: Clock) -> Option<StorageView> {
    let storage = pipeline.storage.as_ref()?;
    let used = storage.database_bytes as f64;
    let volume = storage.volume_bytes.map(|bytes| bytes as f64).filter(|bytes| *bytes > 0.0);
    let largest = storage.tables.first().map_or(1, |table| table.bytes.max(1)) as f64;
    Some(StorageView {
        size: text::bytes(storage.database_bytes),
        volume: storage.volume_bytes.map(text::bytes),
        share: volume.map(|volume| format!("{:.1} %", used / volume * 100.0)),
        gauge: volume
            .map(|volume| gauge("Of the volume", used, volume, level(used / volume), &[70.0, 85.0, 95.0])),
        growth: storage.growth_bytes_per_day.map(per_day),
        forecasts: if volume.is_some() { forecasts(storage, clock) } else { Vec::new() },
        chart: chart(pipeline, storage, volume, clock),
        tables: storage
            .tables
            .iter()
            .map(|table| SizeRow {
                name: table.name.clone(),
                size: text::bytes(table.bytes),
                rows: text::count(table.rows),
                share: gauge(
                    &format!("{} beside the largest", table.name),
                    table.bytes as f64,
                    largest,
                    Tone::Idle,
                    &[],
                ),
            })
            .collect(),
    })
}

fn level(share: f64) -> Tone {
    LEVELS.iter().rev().find(|(_, level, _)| share >= *level).map_or(Tone::Good, |(_, _, tone)| *tone)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
fn per_day(bytes: f64) -> String {
    let size = text::bytes(bytes.abs() as u64);
    if bytes < 0.0 { format!("−{size} a day") } else { format!("{size} a day") }
}

#[allow(clippy::cast_possible_truncation)] // saturates, and then it is no moment
fn forecasts(storage: &Storage, clock: Clock) -> Vec<Forecast> {
    let days = [storage.days_until_70, storage.days_until_85, storage.days_until_95];
    LEVELS
        .iter()
        .zip(days)
        .map(|((level, _, tone), days)| {
            let reached = days.is_some_and(|days| days <= 0.0);
            let on = days.filter(|days| *days > 0.0 && *days < 36_500.0).and_then(|days| {
                let at = clock.now()?.as_second() + (days * DAY) as i64;
                Some(clock.moment_of(at))
            });
            Forecast {
                level,
                tone: if reached { *tone } else { Tone::Idle },
                when: match days {
                    _ if reached => "reached".to_owned(),
                    Some(days) => format!("in {}", rough_days(days)),
                    None => "not in sight".to_owned(),
                },
                on,
            }
        })
        .collect()
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn chart(pipeline: &Overview, storage: &Storage, volume: Option<f64>, clock: Clock) -> Option<Chart> {
    let points: Vec<Point> = pipeline
        .samples
        .iter()
        .map(|sample| Point { at: sample.at, value: sample.database_bytes.map(|bytes| bytes as f64) })
        .collect();
    let latest = points.iter().rev().find_map(|point| point.value.map(|value| (point.at, value)));
    let forecast = storage.growth_bytes_per_day.zip(latest).map(|(growth, (at, value))| {
        (at + (AHEAD_DAYS * DAY) as i64, (value + growth * AHEAD_DAYS).max(0.0))
    });
    let marks = volume.map_or_else(Vec::new, |volume| {
        LEVELS
            .iter()
            .map(|(label, share, tone)| Mark {
                label: (*label).to_owned(),
                value: volume * share,
                tone: *tone,
            })
            .collect()
    });
    let drawn = Line {
        id: "size",
        title: if volume.is_some() {
            "Size of the database, and how full its volume would be".into()
        } else {
            "Size of the database".into()
        },
        unit: Unit::Bytes,
        points,
        forecast,
        marks,
        at_least: 0.0,
        until: 0,
    };
    line(&drawn, Pick::Last, clock)
}
