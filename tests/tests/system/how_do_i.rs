//! The page "How do I …" does what it says: each of its commands is run, in the page's order, as the role that the page
//! names, on a server that people use (OPS-1).

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use postern_tests_kit::{HOME, Server, World, binary, eventually, in_tree, program};
use tokio::process::Command;
use tokio_postgres::{Client, SimpleQueryMessage};

const PAGE: &str = "docs/operate/how-do-i.md";
/// The folder of the page's files, in whose place the test has one of its own.
const FOLDER: &str = "/etc/postern";
/// The folder of its backups, likewise.
const BACKUPS: &str = "/var/backups/postern";
/// Ids that the page has for examples, which nothing has, and queries for those that the test takes in their places.
const IDS: [(&str, &str); 2] = [
    ("oB3xS2uPTyWb9KcD7mQaZWV4YW1wbGUub3Jn", "SELECT group_id FROM operator.largest_groups(number => 1)"),
    (
        r"\x6f1c2a9d03b84e57a1f0c4d2e6b89375",
        "SELECT queue_id::text FROM operator.busiest_queues(number => 1)",
    ),
];

/// A block of commands.
struct Block {
    /// The line of the page on which it begins.
    line: usize,
    /// `sh`, or `sql` with the role.
    kind: String,
    commands: Vec<String>,
}

/// The blocks of a page, also those that are indented.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in page.lines().enumerate() {
        let line = line.trim();
        if let Some(kind) = line.strip_prefix("```") {
            if !open {
                blocks.push(Block { line: number + 2, kind: kind.to_owned(), commands: Vec::new() });
            }
            open = !open;
        } else if let (true, Some(block)) = (open, blocks.last_mut()) {
            block.commands.push(line.to_owned());
        }
    }
    assert!(!open, "a block of the page does not end");
    blocks
}

/// Replaces the page's examples of ids in a block.
async fn take_ids(world: &World, block: &mut Block) {
    for (example, query) in IDS {
        if block.commands.iter().any(|line| line.contains(example)) {
            let id: String = world.value(query).await;
            block.commands.iter_mut().for_each(|line| *line = line.replace(example, &id));
        }
    }
}

/// Runs the statements of a block. A comment behind one names the columns of its result.
async fn run_sql(session: &Client, block: &Block) -> usize {
    let (mut statement, mut number) = (String::new(), 0);
    let mut columns: Option<Vec<String>> = None;
    for (offset, line) in block.commands.iter().enumerate() {
        let place = format!("{PAGE}:{}", block.line + offset);
        if let Some(expected) = line.strip_prefix("-- ") {
            let columns = columns.take().unwrap_or_else(|| panic!("{place}: no result is before it"));
            assert_eq!(columns.join(" | "), expected, "{place}");
            continue;
        }
        statement.push_str(line);
        statement.push('\n');
        if !line.ends_with(';') {
            continue;
        }
        let answer = session.simple_query(&std::mem::take(&mut statement)).await;
        let answer = answer.unwrap_or_else(|error| panic!("{place}: {error:?}"));
        columns = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::RowDescription(columns) => {
                Some(columns.iter().map(|column| column.name().to_owned()).collect())
            }
            _ => None,
        });
        number += 1;
    }
    assert!(statement.is_empty(), "{PAGE}:{}: the last statement does not end", block.line);
    number
}

/// Waits until servers have made the keys in the place of those that a block before revoked: the health that `postern check`
/// shows has no problem.
async fn until_well(world: &World) {
    eventually("health has no problem", async || {
        (world.count("operator.health() WHERE verdict = 'problem'").await == 0).then_some(())
    })
    .await;
}

/// Runs the commands of a block as one script. A comment behind one is a part of what it prints.
async fn run_shell(world: &World, folder: &Path, block: &Block) -> usize {
    let place = format!("{PAGE}:{}", block.line);
    let folder = folder.to_str().unwrap();
    let script = block.commands.join("\n").replace(FOLDER, folder).replace(BACKUPS, folder);
    if script.contains("postern check") {
        until_well(world).await;
    }
    let (postgres, ours) = (program("psql"), binary("postern"));
    let folders = [ours.parent().unwrap(), postgres.parent().unwrap()].map(|path| path.display().to_string());
    let output = Command::new("sh")
        .args(["-euc", &script])
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", folders.join(":")))
        .env("PGHOST", world.cluster.socket_dir())
        .env("PGUSER", "postern_admin")
        .current_dir("/")
        .output()
        .await
        .expect("a shell runs");
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{place}: {said:?}");
    let expected = block.commands.iter().filter_map(|line| line.strip_prefix("# "));
    // A comment before the first command is one for readers.
    let expected = expected.filter(|_| !block.commands[0].starts_with('#'));
    for text in expected {
        assert!(said[0].contains(text), "{place}: no {text:?} in {said:?}");
    }
    block.commands.iter().filter(|line| !line.starts_with('#')).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_page_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::builder().servers(0).start().await;
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        file.display().to_string()
    };
    let master_key = write("master.key", world.cluster.master_key());
    let next_key = folder.path().join("next.key").display().to_string();
    write(
        "postern.toml",
        &format!(
            "domain = '{HOME}'\nmaster_key_file = '{master_key}'\nnext_master_key_file = '{next_key}'\n\
             [database]\nurl = {:?}\nadmin_url = {:?}\n",
            world.cluster.server_url(),
            world.cluster.admin_url()
        ),
    );
    let server = Server::builder(&world.cluster)
        .pushing()
        .env("POSTERN_MASTER_KEY_FILE", &master_key)
        .env("POSTERN_NEXT_MASTER_KEY_FILE", &next_key);
    world.servers.push(server.start().await);
    let (alice, _bob, _group) = world.friends(["alice", "bob"], "climbing").await;
    world.person("mallory").await;
    alice.create_group("another").await.unwrap();

    let page = fs::read_to_string(in_tree(PAGE)).unwrap();
    let mut number = 0;
    for (example, _) in IDS {
        assert!(page.contains(example), "{example}");
    }
    for mut block in blocks(&page) {
        take_ids(&world, &mut block).await;
        let role = match block.kind.as_str() {
            "sh" => {
                number += run_shell(&world, folder.path(), &block).await;
                continue;
            }
            "sql" => "postern_operator",
            "sql monitor" => "postern_monitor",
            "sql superuser" => "postern_admin",
            other => panic!("{PAGE}:{}: a block of the kind {other:?}", block.line),
        };
        number += run_sql(&world.cluster.connect_as(role).await, &block).await;
    }
    assert!(number > 100, "{number} commands");
    let users = "SELECT string_agg(name, ' ' ORDER BY name) FROM operator.users()";
    assert_eq!(world.value::<String>(users).await, "alice bob");
    assert_eq!(world.count("ds.groups").await, 1, "one of two was dropped");
}

/// A function for operators that the page has no use for is one of those that belong to programs, or whose task is on
/// another page.
#[test]
fn the_page_names_what_operators_have() {
    const ELSEWHERE: [&str; 14] = [
        "allow_ciphersuite",
        "certify_signing_key",
        "ciphersuites",
        "current_home_domain",
        "distrust_homeserver_key",
        "forbid_ciphersuite",
        "key_rotation",
        "refusals_per_hour",
        "revoke_signing_key",
        "root_key",
        "set_refusals_per_hour",
        "set_root_key",
        "signing_key_rotation",
        "trust_homeserver_key",
    ];
    let page = fs::read_to_string(in_tree(PAGE)).unwrap();
    let grants = fs::read_to_string(in_tree("sql/grants.sql")).unwrap();
    let functions = grants.lines().filter_map(|line| {
        let (name, roles) = line.strip_prefix("GRANT EXECUTE ON FUNCTION operator.")?.split_once(" TO ")?;
        (roles.contains("postern_operator") || roles.contains("postern_monitor")).then_some(name)
    });
    let missing: Vec<&str> = functions
        .filter(|name| !ELSEWHERE.contains(name) && !page.contains(&format!("operator.{name}(")))
        .collect();
    assert!(missing.is_empty(), "no task of {PAGE} uses {missing:?}");
}

#[test]
fn blocks_are_read_as_they_are_written() {
    let page = "a\n\n```sh\none\n# two\n```\n\n1. b\n\n   ```sql monitor\n   SELECT 1;\n   ```\n";
    let blocks = blocks(page);
    assert_eq!(blocks.len(), 2);
    assert_eq!((blocks[0].line, blocks[0].commands.join("|")), (4, "one|# two".to_owned()));
    assert_eq!(
        (blocks[1].kind.as_str(), blocks[1].commands.join("|")),
        ("sql monitor", "SELECT 1;".to_owned())
    );
}
