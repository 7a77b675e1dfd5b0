//! stub to compile
use crate::settings::ReportSettings;
use runtime::program::{Outcome, Printer};
pub fn run(_: &ReportSettings, _: Printer) -> anyhow::Result<Outcome> {
    Ok(Outcome::Done)
}
