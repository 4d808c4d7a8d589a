//! The master key changes while servers run: `postern master-key change` seals everything anew, in steps that an
//! interrupted run takes up again.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::User,
};
use postern_server::keys::MasterKey;
use postern_tests_kit::{
    Call, Cluster, DataDir, HOME, Server, ServerBuilder, World, eventually, home, postern,
};
use tokio::process::Command;

use crate::backup::{fails, into, succeeds};

/// A file with a key, in hex.
pub fn key_file(dir: &Path, name: &str, key: &str) -> PathBuf {
    let file = dir.join(name);
    fs::write(&file, key).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    file
}

/// The id with which values begin that are sealed under a key, as a dump shows it.
pub fn id(file: &Path) -> String {
    hex::encode(MasterKey::from_file(file).unwrap().id().as_bytes())
}

/// `postern master-key change`, from one key to another.
pub fn change(cluster: &Cluster, key: &Path, next: &Path) -> Command {
    let mut command = postern();
    command
        .args(["master-key", "change"])
        .env("POSTERN_DOMAIN", HOME)
        .env("POSTERN_DATABASE_ADMIN_URL", cluster.admin_url())
        .env("POSTERN_MASTER_KEY_FILE", key)
        .env("POSTERN_NEXT_MASTER_KEY_FILE", next)
        .kill_on_drop(true);
    command
}

/// A server with both keys; the second need not be there.
pub fn server(cluster: &Cluster, key: &Path, next: &Path) -> ServerBuilder {
    Server::builder(cluster)
        .pushing()
        .env("POSTERN_MASTER_KEY_FILE", key.to_str().unwrap())
        .env("POSTERN_NEXT_MASTER_KEY_FILE", next.to_str().unwrap())
}

/// Every server does what needs keys and contacts that are sealed.
async fn assert_all_serve(world: &World, name: &str) {
    for server in &world.servers {
        let record = world.send_to(server, &world.paid(Call::get(format!("/as/users/{name}"))).wire()).await;
        let record: postern_protocol::auth::UserRecord = record.decode();
        assert!(record.clients[0].contact.is_some(), "the contact opens");
        for path in ["/as/keys", "/qs/keys", postern_protocol::token::DIRECTORY_PATH] {
            world.send_to(server, &Call::get(path).wire()).await.assert_ok(path);
        }
        world.send_to(server, &world.paid(Call::post("/ds/group-ids")).wire()).await.assert_ok("a group id");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_master_key_that_was_killed_goes_on_and_servers_serve_all_the_while() {
    let mut world = World::builder().servers(0).start().await;
    let dir = tempfile::tempdir().unwrap();
    let old = key_file(dir.path(), "old.key", world.cluster.master_key());
    let new = dir.path().join("new.key");
    for _ in 0..2 {
        world.servers.push(server(&world.cluster, &old, &new).start().await);
    }
    world.stock(100).await;
    let alice = world.person("alice").await;
    assert_all_serve(&world, &format!("{}", alice.user())).await;
    // Digests by which registrations are counted, of one address and its networks. Counts go with their hour.
    let sources = "SELECT array_agg(DISTINCT encode(a.source, 'hex') ORDER BY encode(a.source, 'hex')) FROM operator.attempts a
                    WHERE a.kind = 'registration' AND octet_length(a.source) > 0";
    let before: Vec<String> = world.value(sources).await;
    let columns: i64 = world.count("operator.sealed_columns()").await;
    assert!(columns >= 6, "{columns}");

    // Killed in the middle: issuer keys are sealed anew, contacts are not.
    key_file(dir.path(), "new.key", &"ab".repeat(32));
    let (old_id, new_id) = (id(&old), id(&new));
    let mut locking = world.cluster.admin().await;
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute("SELECT FROM auth.clients FOR UPDATE").await.unwrap();
    let mut changing = change(&world.cluster, &old, &new).spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%operator.seal_anew%'
                    AND wait_event_type = 'Lock'";
    eventually("it waits for a contact", async || (world.value::<i64>(waits).await > 0).then_some(())).await;
    kill(nix::unistd::Pid::from_raw(changing.id().unwrap() as i32), Signal::SIGKILL).unwrap();
    changing.wait().await.unwrap();
    lock.rollback().await.unwrap();
    let dump = world.cluster.dump().await;
    assert!(dump.contains(&old_id) && dump.contains(&new_id), "it is in the middle");

    // Everything is served, also by a server that starts now; and what is written is sealed.
    world.servers.push(server(&world.cluster, &old, &new).start().await);
    assert_all_serve(&world, "alice@home.example").await;
    let bob = world.person("bob").await;
    assert_all_serve(&world, &format!("{}", bob.user())).await;
    let check = |key: &Path| {
        let mut command = postern();
        command
            .arg("check")
            .env("POSTERN_DOMAIN", HOME)
            .env("POSTERN_DATABASE_URL", world.cluster.server_url())
            .env("POSTERN_MASTER_KEY_FILE", key);
        command
    };
    let report = |output: std::process::Output| String::from_utf8(output.stdout).unwrap();
    let found = report(check(&new).output().await.unwrap());
    assert!(found.contains("a change of the master key is under way"), "{found}");

    // Another change does not come between.
    let third = key_file(dir.path(), "third.key", &"cd".repeat(32));
    let refused = change(&world.cluster, &old, &third).output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("another change is under way"), "{said}");

    let changed = change(&world.cluster, &old, &new).output().await.unwrap();
    let said = String::from_utf8_lossy(&changed.stdout).into_owned();
    assert!(changed.status.success(), "{said}{}", String::from_utf8_lossy(&changed.stderr));
    assert!(said.contains("goes on where it was interrupted"), "{said}");
    let dump = world.cluster.dump().await;
    let row = format!("\\\\x{old_id}");
    assert!(!dump.contains(&row), "nothing is left under the old key");
    assert!(dump.contains(&format!("\\\\x{new_id}")), "this is how a value begins");
    assert_all_serve(&world, "alice@home.example").await;
    let carol = world.person("carol").await;
    assert_all_serve(&world, &format!("{}", carol.user())).await;
    assert_eq!(world.value::<Vec<String>>(sources).await, before, "digests stay");
    let again = change(&world.cluster, &old, &new).output().await.unwrap();
    assert!(String::from_utf8_lossy(&again.stdout).contains("is done"), "a repeat finds nothing to do");

    // The database takes nothing under the old key any more, and a server with it alone does not start.
    let stale = "UPDATE auth.clients SET sealed_contact = $1 WHERE sealed_contact IS NOT NULL";
    let value = MasterKey::from_file(&old).unwrap().seal("AS contact", b"", b"");
    let refused = world.admin.execute(stale, &[&value]).await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("under the present master key"), "{refused:?}");
    let nowhere = dir.path().join("none.key");
    let refused = server(&world.cluster, &old, &nowhere).try_start().await.err().unwrap();
    assert!(refused.contains("sealed under another master key"), "{refused}");
    let found = report(check(&old).output().await.unwrap());
    assert!(found.contains("problem  secrets: they are sealed under another master key"), "{found}");
    world.servers.push(server(&world.cluster, &new, &nowhere).start().await);
    assert_all_serve(&world, "bob@home.example").await;
    assert!(check(&new).output().await.unwrap().status.success());
    // The file of the key may change its content under a running server.
    fs::rename(&new, &old).unwrap();
    assert_all_serve(&world, "alice@home.example").await;
    assert_eq!(alice.user().domain(), &home());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_not_told_of_the_next_key_takes_it_from_the_file_of_the_old_one() {
    let mut world = World::builder().servers(0).start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = key_file(dir.path(), "master.key", world.cluster.master_key());
    let old = key_file(dir.path(), "old.key", world.cluster.master_key());
    let new = key_file(dir.path(), "new.key", &"12".repeat(32));
    let one = Server::builder(&world.cluster).env("POSTERN_MASTER_KEY_FILE", file.to_str().unwrap());
    world.servers.push(one.start().await);
    world.stock(400).await;
    let alice = world.person("alice").await;
    let changed = change(&world.cluster, &old, &new).output().await.unwrap();
    assert!(changed.status.success(), "{}", String::from_utf8_lossy(&changed.stderr));
    let log = "the master key was changed, and this server does not have the new one";
    eventually("it says what it needs", async || world.server().log().contains(log).then_some(())).await;
    fs::rename(&new, &file).unwrap();
    eventually("the contact opens", async || {
        // Each look costs a token.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let call = world.paid(Call::get(format!("/as/users/{}", alice.user()))).wire();
        world.send(&call).await.status.is_success().then_some(())
    })
    .await;
    eventually("it seals under the new key", async || {
        world.server().log().contains("the master key is another one from now on").then_some(())
    })
    .await;
    world.person("bob").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_server_goes_on_while_its_master_key_changes_and_starts_with_the_new_one() {
    let dir = DataDir::migrated().await;
    let server = Server::embedded(&dir).start().await;
    let file = dir.path().join("master.key");
    let before = fs::read(&file).unwrap();
    let kept = dir.path().join(format!("master.key.{}", id(&file)));
    let places = tempfile::tempdir().unwrap();
    let backup = places.path().join("before");
    let mut backing_up = postern();
    backing_up.args(["backup", "--embedded", "--domain", HOME, "--data-dir"]).arg(dir.path()).arg(&backup);
    succeeds(&mut backing_up).await;
    let changed = postern()
        .args(["master-key", "change", "--embedded", "--domain", HOME, "--data-dir"])
        .arg(dir.path())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&changed.stdout).into_owned();
    assert!(changed.status.success(), "{said}{}", String::from_utf8_lossy(&changed.stderr));
    assert!(said.contains("keep the old key"), "{said}");
    assert_ne!(fs::read(&file).unwrap(), before, "the new key is in its place");
    // A backup of before opens with the old one, of which nobody made a copy.
    assert_eq!(fs::read(&kept).unwrap(), before);
    let key = String::from_utf8(before).unwrap();
    succeeds(&mut into(&DataDir::fresh(), &backup, key.trim())).await;
    assert!(!dir.path().join("next-master.key").exists());
    let health = async |server: &Server| {
        reqwest::get(format!("{}/as/keys", server.url())).await.unwrap().status().is_success()
    };
    assert!(health(&server).await);
    assert!(server.terminate().await.success());
    let again = Server::embedded(&dir).start().await;
    assert!(health(&again).await);
    assert!(again.terminate().await.success());
}

mod as_root {
    use super::*;
    use crate::expect_root;

    /// The directory may be that of the server's user, who may be an attacker by then.
    #[tokio::test]
    async fn a_next_master_key_that_leads_elsewhere_gives_the_servers_user_nothing() {
        expect_root("give files away");
        let dir = tempfile::tempdir().unwrap();
        let old = key_file(dir.path(), "old.key", &"ab".repeat(32));
        let nobody = User::from_name("nobody").unwrap().expect("every system has one");
        chown(&old, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
        let roots = key_file(dir.path(), "roots.key", &"cd".repeat(32));
        let next = dir.path().join("next.key");
        let make = || {
            let mut command = postern();
            command.args(["master-key", "new"]).env("POSTERN_DOMAIN", HOME);
            command.env("POSTERN_MASTER_KEY_FILE", &old).env("POSTERN_NEXT_MASTER_KEY_FILE", &next);
            command
        };
        let owner = |file: &Path| fs::metadata(file).unwrap().uid();
        for is_link in [true, false] {
            let led = if is_link { symlink(&roots, &next) } else { fs::hard_link(&roots, &next) };
            led.unwrap();
            fails(&mut make(), "to the owner of the present key").await;
            assert_eq!(owner(&roots), 0);
            fs::remove_file(&next).unwrap();
        }
        // One that root wrote there is another matter.
        fs::rename(&roots, &next).unwrap();
        succeeds(&mut make()).await;
        assert_eq!(owner(&next), nobody.uid.as_raw());
    }
}
