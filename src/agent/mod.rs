//! The loop.

pub mod emergency;

/// Runs the agent until it is told to stop.
pub async fn run(config: crate::config::Config, warnings: Vec<crate::config::Warning>) -> anyhow::Result<()> {
    let _ = (config, warnings);
    anyhow::bail!("not merged")
}
