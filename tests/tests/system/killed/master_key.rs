//! `postern master-key new` and `change`, killed: every value opens, with servers that run and with those that start, and the
//! same command goes on.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
};

use nix::unistd::{Uid, User};
use postern_server::keys::MasterKey;
use postern_tests_kit::{Cluster, DataDir, HOME, Killer, Server, postern};
use tokio_postgres::Client;

use super::{names_in, people_go_on};
use crate::{
    backup::succeeds,
    bad_days::Talk,
    master_key::{change, id, key_file, server},
    own_address,
};

/// The number of columns with values under the key that is replaced.
async fn left(admin: &Client) -> i64 {
    let sql = "SELECT count(*) FROM operator.sealed_columns() c
                WHERE EXISTS (SELECT FROM operator.sealed_values(c.place, c.value_column, NULL, 1000000) v
                               WHERE v.value IS NOT NULL)";
    admin.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_master_key_that_is_killed_between_two_steps_is_ended_by_the_same_command() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let dir = tempfile::tempdir().unwrap();
    let old = key_file(dir.path(), "old.key", cluster.master_key());
    let new = key_file(dir.path(), "new.key", &"ab".repeat(32));
    let (of_old, of_new) = (format!("\\\\x{}", id(&old)), format!("\\\\x{}", id(&new)));
    let start = || server(&cluster, &old, &new);
    let change = || change(&cluster, &old, &new);
    let mut server = start().listen(own_address()).start().await;
    let mut talk = Talk::begin(&server).await;
    let killer = Killer::compiled();

    killer.kill(&mut change(), "write", "operator.begin_master_key_change(").await;
    server = people_go_on(server, start(), &mut talk, "nothing").await;
    assert!(!cluster.dump().await.contains(&of_new), "it has not begun");
    killer.kill(&mut change(), "write", "operator.sealed_columns()").await;
    server = people_go_on(server, start(), &mut talk, "the begin").await;
    let mut before = left(&admin).await;
    assert!(before > 3, "{before} columns with values");
    // Each attempt seals the values of one column anew: the first one that is left. People may leave fewer meanwhile.
    while before > 1 {
        killer.kill_at(2, &mut change(), "write", "operator.seal_anew(").await;
        assert_eq!(left(&admin).await, before - 1);
        server = people_go_on(server, start(), &mut talk, &format!("one of {before} columns")).await;
        before = left(&admin).await;
    }
    killer.kill(&mut change(), "write", "operator.end_master_key_change()").await;
    assert_eq!(left(&admin).await, 0);
    server = people_go_on(server, start(), &mut talk, "all columns").await;
    // It is ended, and that is not said.
    killer.kill(&mut change(), "write", "the change of the master key is done").await;
    server = people_go_on(server, start(), &mut talk, "the end").await;
    let said = succeeds(&mut change()).await;
    assert!(said.contains("the change of the master key is done"), "{said}");
    let dump = cluster.dump().await;
    assert!(!dump.contains(&of_old) && dump.contains(&of_new), "nothing is under the old key");

    // The new one alone is enough.
    let nowhere = dir.path().join("none.key");
    let alone = crate::master_key::server(&cluster, &new, &nowhere);
    server = people_go_on(server, alone, &mut talk, "all of it").await;
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_private_clusters_master_key_that_is_killed_is_ended_by_the_same_command() {
    let dir = DataDir::migrated().await;
    let start = || Server::embedded(&dir);
    let mut server = start().listen(own_address()).start().await;
    let mut talk = Talk::begin(&server).await;
    let (file, next) = (dir.path().join("master.key"), dir.path().join("next-master.key"));
    let before = fs::read(&file).unwrap();
    let kept = dir.path().join(format!("master.key.{}", id(&file)));
    let change = || {
        let mut command = postern();
        command.args(["master-key", "change", "--embedded", "--domain", HOME, "--data-dir"]).arg(dir.path());
        command
    };
    let killer = Killer::compiled();
    // In the order in which they come, each on what the one before left.
    for (step, path, there) in [
        ("open", "next-master.key.new", [false, false]),
        ("link", "next-master.key.new", [false, false]),
        ("write", "operator.begin_master_key_change(", [true, false]),
        ("write", "operator.seal_anew(", [true, false]),
        // The change is ended in the database; then the old key has its second name, too.
        ("link", "/master.key>", [true, false]),
        ("rename", "next-master.key>", [true, true]),
    ] {
        killer.kill(&mut change(), step, path).await;
        assert_eq!([next.exists(), kept.exists()], there, "{step} {path}");
        assert_eq!(fs::read(&file).unwrap(), before, "{step} {path}");
        server = people_go_on(server, start(), &mut talk, &format!("{step} {path}")).await;
    }
    let made = fs::read(&next).unwrap();
    let said = succeeds(&mut change()).await;
    assert!(said.contains("the change of the master key is done"), "{said}");
    assert_eq!((fs::read(&file).unwrap(), fs::read(&kept).unwrap()), (made, before));
    assert!(!next.exists());
    server = people_go_on(server, start(), &mut talk, "all of it").await;
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn a_next_master_key_whose_making_is_killed_is_there_for_servers_whole_or_not_at_all() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let old = key_file(dir.path(), "old.key", cluster.master_key());
    if Uid::effective().is_root() {
        // A server's user may be another one than who makes the key.
        let nobody = User::from_name("nobody").unwrap().expect("every system has one");
        chown(&old, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
    }
    let next = dir.path().join("next.key");
    let owner = |file: &Path| fs::metadata(file).map(|file| (file.uid(), file.mode() & 0o777)).unwrap();
    let make = || {
        let mut command = postern();
        command.args(["master-key", "new"]).env("POSTERN_DOMAIN", HOME);
        command.env("POSTERN_MASTER_KEY_FILE", &old).env("POSTERN_NEXT_MASTER_KEY_FILE", &next);
        command
    };
    let killer = Killer::compiled();
    // In the order in which they come.
    for (number, step, is_there) in [
        (1, "open", false),
        (1, "fsync", false),
        (1, "link", false),
        // The first ones are about what the one before left, and what a process of the same number may have left.
        (3, "unlink", true),
    ] {
        killer.kill_at(number, &mut make(), step, "next.key.new").await;
        assert_eq!(next.exists(), is_there, "{step}");
        assert!(server(&cluster, &old, &next).start().await.terminate().await.success(), "{step}");
    }
    assert_eq!(owner(&next), owner(&old));
    let made = MasterKey::from_file(&next).unwrap().id();
    succeeds(&mut make()).await;
    assert_eq!(MasterKey::from_file(&next).unwrap().id(), made);
    assert_eq!(owner(&next), owner(&old));
    let names = names_in(dir.path());
    assert!(!names.iter().any(|name| name.contains(".new-")), "nothing of them is left: {names:?}");
}
