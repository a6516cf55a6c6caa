//! `pgdiode setup`: what a pipeline needs at both ends.

use super::{Global, Why, output};
use crate::config::Endpoint;
use crate::error::Result;
use crate::pipeline::{self, Production, SlotWork};

/// Create what a pipeline needs at both ends
///
/// Creates the publication at the source and pgdiode's own schema at the target. What will run is printed first.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: the source gets a publication; the target gets the schema pgdiode. Run again, it changes only what is missing.
Of a pipeline into an archive only what is asked for is made beside the publication: with --create-user the role that
`source` names, which may stream and read the tables that are carried; with --create-slot the slot, which the archive
then knows as its own. Run that as the user that will run the writer.
Of a Redis server nothing is changed: the target gets the tables that the mapping fills and that are not there; the rights that
pgdiode needs at the server are printed with --print-sql, for an administrator to give.

Examples:
  pgdiode setup
  pgdiode setup --print-sql | less       for whoever runs it by hand
  pgdiode setup --create-slot --create-user --admin postgresql://postgres@db1/app
  pgdiode setup --adopt-slot             go on from a slot that is there

",
    exit_statuses!()
))]
pub struct Setup {
    /// Print the SQL and run none of it
    #[arg(long)]
    print_sql: bool,
    #[command(flatten)]
    at_production: AtProduction,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    why: Why,
}

/// What is made at production, for a pipeline into an archive.
#[derive(Debug, clap::Args)]
struct AtProduction {
    /// Make the replication slot too, which otherwise the first start does; for a pipeline into an archive
    #[arg(long, conflicts_with = "adopt_slot")]
    create_slot: bool,
    /// Have the archive go on from where an existing slot stands
    #[arg(long)]
    adopt_slot: bool,
    /// Make the user that `source` names, with what it needs and nothing else; for a pipeline into an archive
    #[arg(long, requires = "admin")]
    create_user: bool,
    /// Who sets up the source: a libpq URI or key=value text, its password from PGPASSWORD or ~/.pgpass
    #[arg(long, value_name = "CONNECTION")]
    admin: Option<String>,
}

impl Setup {
    fn production(&self) -> Production {
        let slot = match (self.at_production.create_slot, self.at_production.adopt_slot) {
            (true, _) => SlotWork::Create,
            (false, true) => SlotWork::Adopt,
            (false, false) => SlotWork::Left,
        };
        let admin = self.at_production.admin.as_deref().map(Endpoint::from_text);
        Production { slot, creates_user: self.at_production.create_user, admin }
    }

    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        let production = self.production();
        let plan = pipeline::setup_plan(&pipeline, &production).await?;
        if self.print_sql {
            let by_others = pipeline::setup_by_others(&pipeline).await?;
            return output::statements(&[by_others, plan].concat(), global.json);
        }
        if plan.is_empty() {
            output::note("everything is set up already");
            return output::statements(&plan, global.json);
        }
        if !self.yes {
            output::note(&plan.join("\n"));
            output::confirm("Run this?")?;
        }
        let ran = pipeline::setup(&pipeline, &production, self.why.reason.as_deref()).await?;
        output::statements(&ran, global.json)
    }
}
