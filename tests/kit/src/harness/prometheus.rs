//! Debian's Prometheus, which scrapes servers under test.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::Stdio,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::eventually;

/// A running Prometheus. Dropping it kills it.
pub struct Prometheus {
    url: String,
    _dir: TempDir,
    _child: Child,
}

impl Prometheus {
    /// Scrapes servers every three seconds, which a scrape may take, by the URLs of their metrics, and evaluates the
    /// rules in a file.
    pub async fn start(metrics: &[String], rules: &Path) -> Self {
        let dir = tempfile::tempdir().expect("/tmp is writable");
        let target = |url: &String| {
            let address = url.strip_prefix("http://").and_then(|url| url.split('/').next());
            format!("'{}'", address.expect("it is a URL"))
        };
        let targets: Vec<String> = metrics.iter().map(target).collect();
        let text = format!(
            "global: {{scrape_interval: 3s, evaluation_interval: 3s}}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n\
             - job_name: postern\n  \
               static_configs: [{{targets: [{}]}}]\n",
            rules.display(),
            targets.join(", "),
        );
        let config = dir.path().join("prometheus.yml");
        fs::write(&config, text).expect("it can be written");
        // An address of its own, where nobody else takes the port meanwhile.
        let [second, third, fourth] = rand::random::<[u8; 3]>().map(|part| part % 254 + 1);
        let host = Ipv4Addr::new(127, second, third, fourth);
        let address = TcpListener::bind((host, 0)).and_then(|free| free.local_addr()).expect("a free port");
        let child = Command::new("/usr/bin/prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Prometheus is installed: .ci/setup tests");
        let prometheus = Self { url: format!("http://{address}"), _dir: dir, _child: child };
        eventually("Prometheus is ready", async || {
            let ready = reqwest::get(format!("{}/-/ready", prometheus.url)).await.ok()?;
            ready.status().is_success().then_some(())
        })
        .await;
        prometheus
    }

    /// The series of an expression now: the labels and the value of each.
    ///
    /// # Errors
    /// The words of Prometheus for an expression that is none.
    pub async fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let url =
            reqwest::Url::parse_with_params(&format!("{}/api/v1/query", self.url), [("query", expression)]);
        let answer = reqwest::get(url.expect("it is a URL")).await.expect("Prometheus answers");
        let text = answer.text().await.expect("Prometheus answers");
        let answer: Value = serde_json::from_str(&text).expect("it is JSON");
        if answer["status"] != "success" {
            return Err(answer["error"].as_str().unwrap_or_default().to_owned());
        }
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// The rules that it evaluates.
    pub async fn rules(&self) -> Vec<Value> {
        let answer = reqwest::get(format!("{}/api/v1/rules", self.url)).await.expect("Prometheus answers");
        let text = answer.text().await.expect("Prometheus answers");
        let answer: Value = serde_json::from_str(&text).expect("it is JSON");
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }
}
