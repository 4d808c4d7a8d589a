//! Promises of the whole: to its operator, and about the privacy of its database. They are one program, since each
//! program links all of MLS.

mod accounts;
mod backup;
mod bad_days;
mod bounds;
mod clocks;
mod connections;
mod database;
mod demo;
mod docs;
mod extension;
mod federation;
mod generations;
mod health;
mod how_do_i;
mod interrupted_starts;
mod keys;
mod killed;
mod logins;
mod mailboxes;
mod master_key;
mod metrics;
mod monitoring;
mod operations;
mod outgoing;
mod privacy;
mod recovery;
mod relay;
mod releases;
mod roles;
mod round_trips;
mod setup;
mod status;
mod tls;
mod unheard;
mod upgrade_cluster;
mod views;
mod year;

use std::net::{Ipv4Addr, SocketAddr};

use nix::unistd::Uid;

/// An address for a server that another one takes the place of: at this host nobody else takes its port meanwhile.
fn own_address() -> SocketAddr {
    let [second, third, fourth] = rand::random::<[u8; 3]>().map(|part| part % 254 + 1);
    (Ipv4Addr::new(127, second, third, fourth), 0).into()
}

/// Fails for anybody but root. Tests that need root are in modules `as_root`: `make test` leaves these out for other users, and
/// names them.
fn expect_root(to: &str) {
    assert!(
        Uid::effective().is_root(),
        "only root can {to}: leave out `::as_root::`, as `make test` does for other users"
    );
}
