//! A server, and people with devices.

use postern_client::{Client, Event, Options};
use postern_protocol::ds::GroupId;
use postern_tests::{Cluster, PATIENCE, Server};
use tempfile::TempDir;
use tokio_postgres::Client as Connection;

pub struct World {
    pub server: Server,
    cluster: Cluster,
    pub admin: Connection,
    pub homes: TempDir,
}

impl World {
    pub async fn start() -> Self {
        let cluster = Cluster::start().await;
        let server = Server::builder(&cluster).pushing().start().await;
        let admin = cluster.admin().await;
        Self { server, cluster, admin, homes: tempfile::tempdir().unwrap() }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub async fn person(&self, name: &str) -> Client {
        self.person_at(&self.server, name).await
    }

    /// Somebody who reaches the home domain by another server.
    pub async fn person_at(&self, server: &Server, name: &str) -> Client {
        let options = Options { durable: false, ..Options::default() };
        let home = self.homes.path().join(name);
        Client::builder(home).server(server.url()).options(options).register(name).await.unwrap()
    }

    /// A further device of somebody.
    pub async fn device(&self, of: &Client, name: &str) -> Client {
        let home = self.homes.path().join(name);
        let new = Client::builder(home).server(self.server.url());
        let request = new.request_link(of.user()).unwrap();
        let grant = of.approve_link(&request).await.unwrap();
        new.complete_link(&grant).await.unwrap()
    }

    pub async fn sealed_last_resorts(&self) -> Vec<Vec<u8>> {
        let sql = "SELECT sealed FROM qs.key_packages WHERE last_resort";
        self.admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    pub async fn count(&self, rows: &str) -> i64 {
        self.admin.query_one(&format!("SELECT count(*) FROM {rows}"), &[]).await.unwrap().get(0)
    }
}

/// Alice has a group with Bob's devices: he was asked, and one device answered.
pub async fn befriend(alice: &Client, bob: &Client, group: &GroupId) {
    alice.group_with_id(group).invite(bob.user()).await.unwrap();
    bob.sync_until(PATIENCE, |event| matches!(event, Event::ContactRequested { .. })).await.unwrap();
    alice.sync_until(PATIENCE, |event| matches!(event, Event::Added { .. })).await.unwrap();
}

/// Waits until somebody is in so many more groups.
pub async fn joined(client: &Client, groups: usize) {
    let mut seen = 0;
    while seen < groups {
        let is_joined = |event: &Event| matches!(event, Event::Joined { .. });
        let events = client.sync_until(PATIENCE, is_joined).await.unwrap();
        let new = events.iter().filter(|event| is_joined(event)).count();
        assert!(new > 0, "nobody added this device: {events:?}");
        seen += new;
    }
}
