//! The page of bounds names everything that has one in the code, with its default (OPS-9).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use postern_server::config::Config;
use postern_tests_kit::in_tree;
use serde_json::Value;

use super::docs::{code_spans, read, tables_of};

const PAGE: &str = "docs/operate/bounds.md";
const SOURCES: [&str; 7] = [
    "api/src",
    "client/cli/src",
    "client/src",
    "cluster/src",
    "pg_extension/src",
    "protocol/src",
    "server/src",
];
/// The folder of the units, whose bounds are what systemd waits for.
const UNITS: &str = "packaging/systemd";
/// Constants that are no bound of anything that waits: units, clocks, and what standards allow.
const NO_BOUNDS: [(&str, &str); 8] = [
    ("client/src/options.rs", "DAY"),
    ("server/src/database/session.rs", "DRIVERS_KEEPALIVE"),
    ("server/src/qs/push/application_server.rs", "LIFETIME"),
    ("server/src/qs/push/mod.rs", "TIME_TO_LIVE"),
    ("server/src/tls.rs", "FAR"),
    ("server/src/upkeep.rs", "HOUR"),
    ("server/src/upkeep.rs", "LEAP"),
    ("server/src/upkeep.rs", "MINUTE"),
];

/// A time as the page has it, such as `0.3 s`.
fn time(cell: &str) -> Duration {
    let (number, unit) = cell.split_once(' ').unwrap_or_else(|| panic!("{cell:?} is no time"));
    let seconds = match unit {
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        _ => panic!("{cell:?} has no unit of s, min and h"),
    };
    let number: f64 = number.parse().unwrap_or_else(|_| panic!("{cell:?} has no number"));
    Duration::from_secs_f64(number * seconds)
}

/// The bounds of a source: the constants that are times, at the beginning of a line.
fn constants(text: &str) -> BTreeMap<String, Duration> {
    let lines = text.lines().map(|line| {
        ["pub ", "pub(super) "].iter().find_map(|visibility| line.strip_prefix(visibility)).unwrap_or(line)
    });
    let constants = lines.filter_map(|line| {
        let (name, value) = line.strip_prefix("const ")?.split_once(": Duration = Duration::from_")?;
        let (unit, value) = value.split_once('(')?;
        // A test of the module's own may have another one.
        let value = value.split_once("else {").map_or(value, |(_, value)| value);
        let number = |factor: &str| factor.trim().replace('_', "").parse::<u64>().ok();
        let value = value.split([')', '}', ';']).next()?;
        let product = value.split('*').map(number).try_fold(1, |product, factor| Some(product * factor?))?;
        let time = match unit {
            "secs" => Duration::from_secs(product),
            "millis" => Duration::from_millis(product),
            other => panic!("{name} has the unit {other}"),
        };
        Some((name.to_owned(), time))
    });
    constants.collect()
}

/// The bounds of a unit, each line with its time.
fn lines_of_unit(text: &str) -> BTreeMap<String, Duration> {
    let bounds = text.lines().filter(|line| line.starts_with("Timeout") || line.starts_with("RestartSec="));
    let timed = bounds.map(|line| {
        let (_, value) = line.split_once('=').expect("it has a value");
        let number = value.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        (line.to_owned(), time(&format!("{number} {}", &value[number.len()..])))
    });
    timed.collect()
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("it can be read") {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The settings that are times, in seconds.
fn settings(value: &Value, prefix: &str, into: &mut BTreeMap<String, Duration>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let key = format!("{prefix}{name}");
        match value.as_u64() {
            // How old something is, and no wait.
            Some(seconds) if name.ends_with("_seconds") && !name.ends_with("max_age_seconds") => {
                into.insert(key, Duration::from_secs(seconds));
            }
            _ => settings(value, &format!("{key}."), into),
        }
    }
}

#[test]
fn every_bound_of_the_code_is_on_the_page_with_its_default() {
    let mut actual = BTreeMap::new();
    settings(&serde_json::to_value(Config::default()).expect("a configuration serialises"), "", &mut actual);
    assert!(actual.len() > 10, "{actual:?}");
    let root = in_tree("");
    for folder in SOURCES {
        let mut found = Vec::new();
        sources(&in_tree(folder), &mut found);
        for file in found {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("_delay(Duration::from_"), "{path}: a pause that is no constant");
            for (name, time) in constants(&text) {
                if !NO_BOUNDS.contains(&(path, &name)) {
                    actual.insert(format!("{path} {name}"), time);
                }
            }
        }
    }
    for unit in fs::read_dir(in_tree(UNITS)).expect("it can be read") {
        let unit = unit.unwrap().path();
        let path = unit.strip_prefix(&root).unwrap().to_str().unwrap();
        for (line, time) in lines_of_unit(&fs::read_to_string(&unit).unwrap()) {
            actual.insert(format!("{path} {line}"), time);
        }
    }
    let mut documented = BTreeMap::new();
    let tables = [tables_of(PAGE, "waits"), tables_of(PAGE, "looks")].concat();
    for row in tables.iter().flat_map(|(_, table)| &table.rows) {
        let spans = code_spans(&row[3]);
        let time = time(&row[1]);
        let key = match &spans[..] {
            [setting] => setting.clone(),
            [path, literal] if literal.contains(' ') => {
                assert!(read(path).contains(literal), "{path} has no {literal:?}");
                continue;
            }
            // A constant, or a line of a unit.
            [path, name] => format!("{path} {name}"),
            _ => panic!("{row:?} names no setting or place"),
        };
        assert!(documented.insert(key.clone(), time).is_none(), "{key} is there twice");
    }
    let differences: Vec<_> = actual
        .keys()
        .chain(documented.keys())
        .filter(|key| actual.get(*key) != documented.get(*key))
        .map(|key| (key, ("page", documented.get(key)), ("code", actual.get(key))))
        .collect();
    assert!(differences.is_empty(), "{PAGE} and the code differ: {differences:#?}");
}

#[test]
fn a_constant_and_a_time_are_read_as_they_are_written() {
    let text = "const A: Duration = Duration::from_secs(10 * 60);\n    const NO: Duration = Duration::from_secs(1);\n\
                pub const B: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 5_000 });\n";
    let found = constants(text);
    assert_eq!(
        found,
        [("A", 600), ("B", 5)].map(|(name, s)| (name.to_owned(), Duration::from_secs(s))).into()
    );
    let unit = lines_of_unit("TimeoutStopSec=2min\nRestartSec=2s\nRestart=always\n");
    let expected = [("TimeoutStopSec=2min", 120), ("RestartSec=2s", 2)];
    assert_eq!(unit, expected.map(|(line, s)| (line.to_owned(), Duration::from_secs(s))).into());
    assert_eq!(time("0.3 s"), Duration::from_millis(300));
    assert_eq!(time("24 h"), Duration::from_secs(86_400));
}
