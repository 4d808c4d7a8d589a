//! `make demo`, as a test: two users, three devices, a removed member.

use postern_tests_kit::{binary, in_tree};

#[tokio::test]
async fn the_demo_ends_well() {
    let output = tokio::process::Command::new("bash")
        .arg(in_tree("tests/demo.sh"))
        .env("POSTERN_PROGRAMS", binary("postern").parent().unwrap())
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
}
