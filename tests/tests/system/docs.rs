//! The documentation agrees with the program wherever a test can tell: endpoints, problems, settings, functions and
//! limits of operators (OPS-1), requirement ids, and links.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
    path::{Component, Path, PathBuf},
};

use postern_protocol::{label::Label, problem::ProblemType};
use postern_server::{config::Config, routes};
use postern_tests_kit::{Cluster, in_tree, postern};

/// Places that hold no text of ours.
const NOT_OURS: [&str; 5] = [".git", "Cargo.lock", "node_modules", "target", "vectors"];
/// Prefixes of requirement ids.
const KINDS: [&str; 8] = ["AS", "AAS", "DS", "QS", "BLOB", "FED", "OPS", "PRIV"];
const REQUIREMENTS: &str = "docs/requirements.md";
const CONFIGURE: &str = "docs/operate/configure.md";

/// A table of a page: its header, and its other rows.
#[derive(Clone)]
pub struct Table {
    header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// The row's cell under a heading.
    fn cell<'a>(&self, row: &'a [String], heading: &str) -> &'a str {
        let place = self.header.iter().position(|found| found == heading);
        let place = place.unwrap_or_else(|| panic!("no column {heading} in {:?}", self.header));
        row.get(place).unwrap_or_else(|| panic!("no cell under {heading} in {row:?}"))
    }
}

pub fn read(path: &str) -> String {
    fs::read_to_string(in_tree(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The lines of a page without its code blocks.
fn prose(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let is_prose = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    };
    text.lines().filter(is_prose).collect()
}

fn tables(text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut in_table = false;
    for line in prose(text) {
        let Some(row) = line.strip_prefix('|').and_then(|rest| rest.trim_end().strip_suffix('|')) else {
            in_table = false;
            continue;
        };
        let cells: Vec<String> =
            row.replace(r"\|", "\u{0}").split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect();
        match tables.last_mut().filter(|_| in_table) {
            None => tables.push(Table { header: cells, rows: Vec::new() }),
            Some(_) if cells.iter().all(|cell| cell.chars().all(|c| ":-".contains(c))) => {}
            Some(table) => table.rows.push(cells),
        }
        in_table = true;
    }
    tables
}

/// The tables of all pages in a folder whose first column has this heading, with the page that each is on.
pub fn tables_of(folder: &str, heading: &str) -> Vec<(String, Table)> {
    let pages = pages().into_iter().filter(|page| page.starts_with(folder));
    let of_page = |page: String| {
        let tables = tables(&read(&page));
        tables.into_iter().map(move |table| (page.clone(), table))
    };
    pages.flat_map(of_page).filter(|(_, table)| table.header[0] == heading).collect()
}

/// The texts of a cell's code spans.
pub fn code_spans(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The text of a cell's first code span.
fn code(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap_or_else(|| panic!("no code in the cell {cell:?}"))
}

/// All files of ours, as paths from the root of the tree.
fn files() -> Vec<String> {
    let root = in_tree("");
    let mut files = Vec::new();
    let mut places = vec![root.clone()];
    while let Some(place) = places.pop() {
        if NOT_OURS.iter().any(|name| place.ends_with(name)) {
            continue;
        }
        // A file that another program had there for a moment is none of ours.
        let Ok(found) = fs::symlink_metadata(&place) else { continue };
        if found.is_dir() {
            places.extend(fs::read_dir(place).expect("it can be read").map(|entry| entry.unwrap().path()));
        } else {
            files.push(place.strip_prefix(&root).expect("it is below").to_str().expect("UTF-8").to_owned());
        }
    }
    files.sort();
    files
}

fn pages() -> Vec<String> {
    let pages: Vec<_> = files().into_iter().filter(|path| path.ends_with(".md")).collect();
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

/// Asserts that documentation and facts agree, and lists the differences otherwise.
fn assert_agree<V: Debug + PartialEq>(
    what: &str,
    documented: &BTreeMap<String, V>,
    actual: &BTreeMap<String, V>,
) {
    let keys: BTreeSet<_> = documented.keys().chain(actual.keys()).collect();
    let differences: Vec<_> = keys
        .into_iter()
        .filter(|key| documented.get(*key) != actual.get(*key))
        .map(|key| (key, ("documented", documented.get(key)), ("actual", actual.get(key))))
        .collect();
    assert!(differences.is_empty(), "{what}: {differences:#?}");
}

/// Inserts a row, which must be the only one for its key.
fn insert<V>(map: &mut BTreeMap<String, V>, key: &str, value: V) {
    assert!(map.insert(key.to_owned(), value).is_none(), "{key} is there twice");
}

#[test]
fn every_endpoint_is_in_one_table_and_every_row_of_a_table_is_an_endpoint() {
    let mut documented = BTreeMap::new();
    for (_, table) in tables_of("docs/protocol/", "endpoint") {
        for row in &table.rows {
            let token = table.cell(row, "token");
            assert!(["yes", "no"].contains(&token), "{row:?}");
            insert(&mut documented, code(&row[0]), token == "yes");
        }
    }
    let routes: BTreeMap<_, _> = routes::all()
        .iter()
        .map(|route| (format!("{} {}", route.method, route.path), route.is_paid()))
        .collect();
    assert_agree("endpoints, and whether they ask for a token", &documented, &routes);
}

#[test]
fn every_problem_is_in_the_table_with_its_status_and_meaning() {
    let mut documented = BTreeMap::new();
    for (_, table) in tables_of("docs/protocol/", "type") {
        for row in &table.rows {
            let (status, meaning) = (table.cell(row, "status"), table.cell(row, "meaning"));
            insert(&mut documented, code(&row[0]), (status.to_owned(), meaning.to_owned()));
        }
    }
    let problem = |kind: &ProblemType| {
        (kind.slug().to_owned(), (kind.status().as_u16().to_string(), kind.meaning().to_owned()))
    };
    assert_agree("problems", &documented, &ProblemType::ALL.iter().map(problem).collect());
}

/// The requirement ids in a text.
fn ids(text: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for kind in KINDS {
        for (start, _) in text.match_indices(&format!("{kind}-")) {
            let is_part_of_a_word =
                text[..start].ends_with(|c: char| c.is_alphanumeric() || "-_".contains(c));
            let rest = &text[start + kind.len() + 1..];
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let goes_on = rest[number.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
            if !is_part_of_a_word && !number.is_empty() && !goes_on {
                ids.insert(format!("{kind}-{number}"));
            }
        }
    }
    ids
}

#[test]
fn every_requirement_id_in_use_is_defined_and_every_one_that_is_met_is_in_use() {
    let mut defined = BTreeMap::new();
    for (_, table) in tables_of(REQUIREMENTS, "id") {
        for row in &table.rows {
            let state = table.cell(row, "state");
            assert!(["exists", "partly", "planned"].contains(&state), "{row:?}");
            assert!(state != "partly" || !table.cell(row, "notes").is_empty(), "what is missing: {row:?}");
            insert(&mut defined, &row[0], state.to_owned());
        }
    }
    let mut used = BTreeMap::new();
    for path in files().into_iter().filter(|path| path != REQUIREMENTS) {
        let Ok(text) = fs::read_to_string(in_tree(&path)) else { continue };
        for id in ids(&text) {
            used.entry(id).or_insert(path.clone());
        }
    }
    let undefined: Vec<_> = used.iter().filter(|(id, _)| !defined.contains_key(*id)).collect();
    assert!(undefined.is_empty(), "ids that {REQUIREMENTS} does not define: {undefined:?}");
    let unused: Vec<_> =
        defined.iter().filter(|(id, state)| *state != "planned" && !used.contains_key(*id)).collect();
    assert!(unused.is_empty(), "ids that nothing names: {unused:?}");
}

/// A label that is written elsewhere than in the one list may be the beginning of another.
#[test]
fn labels_are_in_one_list_and_pages_and_comments_name_no_others() {
    let labels: Vec<&[u8]> = Label::ALL.iter().map(|label| label.as_bytes()).collect();
    let mut named = 0;
    for path in files().into_iter().filter(|path| path.ends_with(".rs") || path.ends_with(".md")) {
        let Ok(text) = fs::read_to_string(in_tree(&path)) else { continue };
        if path.starts_with("tests/") {
            continue;
        }
        let program = text.split("#[cfg(test)]").next().unwrap_or_default();
        let has_own = ["b\"postern ", "b\"Postern "].iter().any(|label| program.contains(label));
        assert!(!has_own, "a label of its own in {path}");
        for (end, _) in text.match_indices("\" || 0") {
            let label = text[..end].rsplit('"').next().unwrap_or_default();
            assert!(labels.contains(&format!("{label}\0").as_bytes()), "{path} names {label:?}");
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}

/// A setting, as `--help` and the page tell of it.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    environment: String,
    /// `None`: there is none.
    default: Option<String>,
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The part of a text between two others.
fn between<'a>(text: &'a str, start: &str, end: char) -> Option<&'a str> {
    text.split_once(start)?.1.split(end).next()
}

async fn help(command: &str) -> BTreeMap<String, Setting> {
    let output = postern().args(command.split(' ')).arg("--help").output().await.expect("postern runs");
    let help = String::from_utf8(output.stdout).expect("help is text");
    let mut settings = BTreeMap::new();
    for about in help.split("\n      --").skip(1) {
        let flag = about.split([' ', '[', '\n']).next().unwrap_or_default();
        // Words for this once, which are no settings.
        if ["ready", "start"].contains(&flag) {
            continue;
        }
        let about = one_line(about);
        let environment = between(&about, "[env: ", ']').and_then(|env| env.split('=').next());
        let environment = environment.unwrap_or_else(|| panic!("--{flag} has no variable")).to_owned();
        let default = between(&about, "[default: ", ']').map(str::to_owned);
        insert(&mut settings, &format!("--{flag}"), Setting { environment, default });
    }
    settings
}

#[tokio::test]
async fn the_settings_of_help_are_those_of_the_page() {
    let mut documented = BTreeMap::new();
    for (_, table) in tables_of(CONFIGURE, "flag") {
        for row in &table.rows {
            let default = one_line(&table.cell(row, "default").replace('`', ""));
            let default = Some(default).filter(|default| !default.starts_with("none: required"));
            let environment = code(table.cell(row, "environment")).to_owned();
            insert(&mut documented, code(&row[0]), Setting { environment, default });
        }
    }
    for command in ["serve", "migrate", "check", "status", "master-key change"] {
        assert_agree(&format!("postern {command} --help"), &documented, &help(command).await);
    }
}

/// The names of all values in a tree of tables, such as `database.url`.
fn keys(value: &serde_json::Value, prefix: &str, into: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(table) => table.iter().for_each(|(name, value)| keys(value, &format!("{prefix}{name}."), into)),
        None => drop(into.insert(prefix.trim_end_matches('.').to_owned())),
    }
}

#[tokio::test]
async fn the_configuration_file_has_the_keys_of_the_page_and_the_pages_example_is_one() {
    let mut documented = BTreeSet::new();
    for (_, table) in tables_of(CONFIGURE, "flag") {
        let cells = table.rows.iter().map(|row| table.cell(row, "in the file"));
        documented.extend(cells.filter(|cell| !cell.is_empty()).map(|cell| code(cell).to_owned()));
    }
    let mut known = BTreeSet::new();
    keys(&serde_json::to_value(Config::default()).expect("a configuration serialises"), "", &mut known);
    assert_eq!(documented, known);

    let page = read(CONFIGURE);
    let example =
        page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("postern.toml");
    fs::write(&file, example).unwrap();
    let output = postern().arg("check").arg("--config").arg(&file).output().await.expect("postern runs");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(report.starts_with("ok       configuration: file "), "{report}");
}

/// A function that operators call: its parameters, those that may be left out with `=>`, and whether monitoring may
/// call it, too.
type Function = (String, bool);

#[tokio::test]
async fn every_function_and_view_of_operators_is_on_one_page_and_nothing_else_is() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let rows = admin
        .query(
            "SELECT p.proname::text,
                    (SELECT coalesce(string_agg(a.name || CASE WHEN a.place > p.pronargs - p.pronargdefaults
                                                               THEN ' =>' ELSE '' END, ', ' ORDER BY a.place), '')
                       FROM (SELECT n.name, row_number() OVER (ORDER BY n.number) AS place
                               FROM unnest(p.proargnames, p.proargmodes::text[])
                                    WITH ORDINALITY AS n (name, mode, number)
                              WHERE coalesce(n.mode, 'i') IN ('i', 'b', 'v')) a),
                    has_function_privilege('postern_monitor', p.oid, 'EXECUTE')
               FROM pg_proc p
              WHERE p.pronamespace = 'operator'::regnamespace
                AND (has_function_privilege('postern_operator', p.oid, 'EXECUTE')
                     OR has_function_privilege('postern_monitor', p.oid, 'EXECUTE'))
              UNION ALL
             SELECT c.relname::text, 'view', has_table_privilege('postern_monitor', c.oid, 'SELECT')
               FROM pg_class c
              WHERE c.relnamespace = 'operator'::regnamespace AND c.relkind IN ('v', 'm')",
            &[],
        )
        .await
        .expect("the catalog can be read");
    let functions: BTreeMap<String, Function> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    assert!(functions.len() > 20, "{functions:?}");

    let mut documented = BTreeMap::new();
    for heading in ["function", "view"] {
        for (_, table) in tables_of("docs/operate/", heading) {
            for row in &table.rows {
                let (name, parameters) = code(&row[0]).split_once('(').unwrap_or((code(&row[0]), "view)"));
                let parameters = parameters.strip_suffix(')').unwrap_or_else(|| panic!("{row:?}"));
                insert(&mut documented, name, (parameters.to_owned(), table.cell(row, "monitor") == "yes"));
            }
        }
    }
    assert_agree("functions of the schema operator", &documented, &functions);
}

#[tokio::test]
async fn every_limit_is_in_a_table_with_its_default() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    for (page, limits) in [
        ("docs/operate/mailboxes.md", "SELECT name, value FROM operator.queue_limits()"),
        ("docs/operate/users.md", "SELECT name, value FROM operator.user_limits()"),
        ("docs/operate/rendezvous.md", "SELECT name, value FROM operator.rendezvous_limits()"),
        ("docs/operate/federation.md", "SELECT name, value FROM operator.federation_limits()"),
        (
            "docs/operate/groups.md",
            "SELECT name, value FROM operator.group_limits()
              UNION ALL SELECT 'inactive_days', inactive_days FROM operator.group_expiry()
              UNION ALL SELECT 'abandoned_days', abandoned_days FROM operator.group_expiry()",
        ),
    ] {
        let rows = admin.query(limits, &[]).await.expect("the limits can be read");
        let limits: BTreeMap<String, String> =
            rows.iter().map(|row| (row.get(0), row.get::<_, i32>(1).to_string())).collect();
        let mut documented = BTreeMap::new();
        for (_, table) in tables_of(page, "name") {
            for row in &table.rows {
                insert(&mut documented, code(&row[0]), table.cell(row, "default").to_owned());
            }
        }
        assert_agree(page, &documented, &limits);
    }
}

/// The anchor that a heading gets: lower case, blanks as hyphens, without punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn anchors(page: &str) -> BTreeSet<String> {
    let text = read(page);
    let headings = prose(&text).into_iter().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// The targets of a page's links, without those into the web.
fn links(text: &str) -> Vec<String> {
    let text = prose(text).join("\n");
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
}

/// A path without its `..`.
fn resolved(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(resolved.pop(), "{} leads out of the tree", path.display()),
            Component::Normal(name) => resolved.push(name),
            _ => {}
        }
    }
    resolved
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut checked = 0;
    for page in pages() {
        for link in links(&read(&page)) {
            let (path, fragment) = link.split_once('#').unwrap_or((link.as_str(), ""));
            let target = match path {
                "" => PathBuf::from(&page),
                path => resolved(&Path::new(&page).parent().expect("a page has a folder").join(path)),
            };
            assert!(
                in_tree(target.to_str().unwrap()).exists(),
                "{page} links to {link}, which does not exist"
            );
            let found = fragment.is_empty() || anchors(target.to_str().unwrap()).contains(fragment);
            assert!(found, "{page} links to {link}, which has no such heading");
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked} links");
}

#[test]
fn every_file_that_a_page_names_and_every_page_that_a_file_names_exists() {
    let top: BTreeSet<String> = fs::read_dir(in_tree(""))
        .expect("the tree can be read")
        .map(|entry| entry.unwrap().file_name().into_string().expect("UTF-8"))
        .filter(|name| name != "target")
        .collect();
    let plain = |path: &str| path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let mut dead = Vec::new();
    for page in pages() {
        let text = prose(&read(&page)).join("\n");
        for path in text.split('`').skip(1).step_by(2) {
            let ours = path.split_once('/').is_some_and(|(first, _)| top.contains(first));
            if ours && plain(path) && !in_tree(path).exists() {
                dead.push(format!("{page}: {path}"));
            }
        }
    }
    for path in files().into_iter().filter(|path| !path.ends_with(".md") && !path.ends_with("docs.rs")) {
        let Ok(text) = fs::read_to_string(in_tree(&path)) else { continue };
        for (start, _) in text.match_indices("docs/") {
            let name: String = text[start..].chars().take_while(|c| plain(&c.to_string())).collect();
            let name = name.trim_end_matches('.');
            if name.ends_with(".md") && !in_tree(name).exists() {
                dead.push(format!("{path}: {name}"));
            }
        }
        // Programs name a page by what it is called in the tree and in a package.
        for (end, _) in text.match_indices(".md of the documentation") {
            let name = text[..end].rsplit(|c: char| !plain(&c.to_string())).next().unwrap_or_default();
            if !in_tree(&format!("docs/{name}.md")).exists() {
                dead.push(format!("{path}: {name}"));
            }
        }
    }
    assert!(dead.is_empty(), "names of files that do not exist: {dead:#?}");
}

#[test]
fn a_table_a_link_an_anchor_and_an_id_are_read_as_they_are_written() {
    let page = "| a | b |\n|---|:--|\n| `x \\| y` | 1 |\n\n```\n| no | table |\n[no](link)\n```\n[to](a.md#b-c) AAS-1, XAS-2";
    let tables = tables(page);
    assert_eq!(tables.len(), 1);
    assert_eq!((code(&tables[0].rows[0][0]), tables[0].cell(&tables[0].rows[0], "b")), ("x | y", "1"));
    assert_eq!(links(page), ["a.md#b-c"]);
    assert_eq!(anchor(" MLS (`mls.rs`), what it's"), "mls-mlsrs-what-its");
    assert_eq!(ids(page), BTreeSet::from(["AAS-1".to_owned()]));
}
