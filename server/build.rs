//! Has the crate built anew when a file of `sql/` or `migrations/`, which it embeds, is added or removed.

fn main() {
    println!("cargo::rerun-if-changed=../sql");
    println!("cargo::rerun-if-changed=../migrations");
}
