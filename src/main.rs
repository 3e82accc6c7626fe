//! The command line.
fn main() -> anyhow::Result<()> {
    mainstay::agent::init_logging()?;
    let path = std::env::args().nth(3).unwrap_or_default();
    let (config, warnings) = mainstay::config::load(std::path::Path::new(&path))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(mainstay::agent::run(config, warnings));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}
