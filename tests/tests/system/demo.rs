//! `make demo` and `make demo-federation`, as tests.

use postern_tests_kit::{binary, in_tree};

#[tokio::test]
async fn the_demo_ends_well() {
    ends_well("tests/demo.sh").await;
}

#[tokio::test]
async fn the_demo_of_two_servers_ends_well() {
    ends_well("tests/demo_federation.sh").await;
}

async fn ends_well(script: &str) {
    let output = tokio::process::Command::new("bash")
        .arg(in_tree(script))
        .env("POSTERN_PROGRAMS", binary("postern").parent().unwrap())
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    assert!(told.ends_with("Done: everything was as it should be.\n"), "{told}");
}
