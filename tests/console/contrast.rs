//! The style sheet's colours: every text on every ground, in both schemes, by WCAG's own formula.

use std::collections::{BTreeMap, BTreeSet};

use pgdiode::http::console::asset;

const TEXT_MIN: f64 = 4.5;
/// Of what is no text and has to be seen: outlines of fields, icons, lines of drawings.
const SHAPE_MIN: f64 = 3.0;

/// What a rule may colour text with, and what may be behind it.
const TEXTS: &[&str] = &["ink", "quiet", "accent", "good", "work", "paused", "warn", "bad", "idle"];
const GROUNDS: &[&str] = &["paper", "raised", "sunken"];
const TINTS: &[&str] = &["good", "work", "paused", "warn", "bad"];
/// Colours that only lie on one ground each: text of buttons on theirs.
const PAIRS: &[(&str, &str)] = &[("on-accent", "accent"), ("paper", "ink"), ("paper", "bad")];

type Scheme = BTreeMap<String, [f64; 3]>;

fn css() -> String {
    String::from_utf8(asset("console.css").unwrap().body.to_vec()).unwrap()
}

/// The light scheme, and the dark one.
fn schemes(css: &str) -> [Scheme; 2] {
    let (light, rest) = css.split_once("prefers-color-scheme: dark").unwrap();
    let dark = rest.split_once("\n}\n").unwrap().0;
    [colours(light), colours(dark)]
}

fn colours(css: &str) -> Scheme {
    css.lines()
        .filter_map(|line| line.trim().strip_prefix("--")?.strip_suffix(';')?.split_once(": #"))
        .filter(|(_, hex)| hex.len() == 6)
        .map(|(name, hex)| {
            let part = |at: usize| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
            (name.to_owned(), [part(0), part(2), part(4)])
        })
        .collect()
}

/// WCAG 2.2, "relative luminance" and "contrast ratio".
fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let linear = |part: f64| if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) };
    let luminance =
        |[red, green, blue]: [f64; 3]| 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

/// Pairs that are too near to each other.
fn too_near(scheme: &Scheme) -> Vec<String> {
    let mut pairs: Vec<(String, String, f64)> = Vec::new();
    let mut add = |text: &str, ground: &str, least: f64| pairs.push((text.into(), ground.into(), least));
    for text in TEXTS {
        for ground in GROUNDS {
            add(text, ground, TEXT_MIN);
        }
    }
    for tint in TINTS {
        for text in ["ink", "quiet", "accent", tint] {
            add(text, &format!("{tint}-tint"), TEXT_MIN);
        }
    }
    for (text, ground) in PAIRS {
        add(text, ground, TEXT_MIN);
    }
    for ground in GROUNDS {
        add("line-strong", ground, SHAPE_MIN);
    }
    pairs
        .into_iter()
        .filter_map(|(text, ground, least)| {
            let found = contrast(scheme[&text], scheme[&ground]);
            (found < least).then(|| format!("{text} on {ground}: {found:.2}, not {least}"))
        })
        .collect()
}

#[test]
fn every_text_stands_out_from_every_ground_in_both_schemes() {
    for (name, scheme) in ["light", "dark"].iter().zip(schemes(&css())) {
        let found = too_near(&scheme);
        assert!(found.is_empty(), "{name}:\n{}", found.join("\n"));
    }
}

/// Nothing is coloured with what is not looked at above.
#[test]
fn only_known_colours_are_used() {
    let css = css();
    let used = |property: &str| -> BTreeSet<String> {
        css.split(['{', ';', '}'])
            .filter_map(|declaration| {
                declaration.trim().strip_prefix(property)?.trim().strip_prefix("var(--")
            })
            .map(|name| name.trim_end_matches(')').to_owned())
            .collect()
    };
    let texts: BTreeSet<String> =
        TEXTS.iter().chain(PAIRS.iter().map(|(text, _)| text)).map(ToString::to_string).collect();
    let mut grounds: BTreeSet<String> = GROUNDS.iter().map(ToString::to_string).collect();
    grounds.extend(TINTS.iter().map(|tint| format!("{tint}-tint")));
    grounds.extend(PAIRS.iter().map(|(_, ground)| (*ground).to_owned()));
    // The bar of a progress, which bears no text.
    grounds.insert("line".into());
    assert!(used("color:").len() > 5, "the style sheet is not read");
    assert_eq!(used("color:").difference(&texts).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(used("background:").difference(&grounds).collect::<Vec<_>>(), [""; 0]);
    let literal: Vec<&str> = css
        .lines()
        .filter(|line| line.contains('#') && !line.trim_start().starts_with("--") && !line.contains("/*"))
        .collect();
    assert_eq!(literal, [""; 0], "a colour that is no custom property");
}

#[test]
fn the_formula_is_wcags_and_a_pale_colour_is_found() {
    let grey = |part: f64| [part; 3];
    assert!((contrast(grey(0.0), grey(1.0)) - 21.0).abs() < 1e-9);
    // #767676 on white is the palest grey that is allowed.
    assert!((contrast(grey(118.0 / 255.0), grey(1.0)) - 4.54).abs() < 0.01);
    let css = css();
    let [light, dark] = schemes(&css);
    assert!(contrast(light["paper"], dark["paper"]) > 10.0);
    assert!(light.keys().eq(dark.keys()), "a scheme lacks a colour of the other");
    let pale = css.replacen("--quiet: #5a5e65", "--quiet: #8a8e95", 1);
    assert!(pale != css && !too_near(&schemes(&pale)[0]).is_empty());
}
