fn main() -> std::process::ExitCode {
    postern_server::cli::main()
}
