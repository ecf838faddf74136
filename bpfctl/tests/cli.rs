//! What bpfctl says without a daemon: help, wrong usage, a daemon that does not run. Whole outputs, in `tests/cmd`.

#[test]
fn the_transcripts_hold() {
    trycmd::TestCases::new()
        .default_bin_name("bpfctl")
        .env("BPFD_SOCKET", "/nonexistent/bpfd.sock")
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .case("tests/cmd/*.trycmd");
}
