//! `pgdiode setup`: what a pipeline needs at both ends.

use super::{Global, Why, output};
use crate::error::Result;
use crate::pipeline;

/// Create what a pipeline needs at both ends
///
/// Creates the publication at the source and pgdiode's own schema at the target. What will run is printed first.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: the source gets a publication; the target gets the schema pgdiode. Run again, it changes only what is missing.

Examples:
  pgdiode setup
  pgdiode setup --print-sql | less       for whoever runs it by hand

",
    exit_statuses!()
))]
pub struct Setup {
    /// Print the SQL and run none of it
    #[arg(long)]
    print_sql: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    why: Why,
}

impl Setup {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        let plan = pipeline::setup_plan(&pipeline).await?;
        if self.print_sql {
            return output::statements(&plan, global.json);
        }
        if plan.is_empty() {
            output::note("everything is set up already");
            return output::statements(&plan, global.json);
        }
        if !self.yes {
            output::note(&plan.join("\n"));
            output::confirm("Run this?")?;
        }
        let ran = pipeline::setup(&pipeline, self.why.reason.as_deref()).await?;
        output::statements(&ran, global.json)
    }
}
