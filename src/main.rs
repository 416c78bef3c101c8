//! The command line.

use std::{pin::pin, process::ExitCode};

use clap::{Parser, Subcommand};
use popbridge::{
    api::{self, keys::Scope},
    app::{self, App, OpenDatabase},
    chaos, check,
    config::{Config, ConfigError, Role, Settings},
    telemetry,
};
use secrecy::ExposeSecret;
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

/// POP3 mailboxes as a JSON API and signed webhooks
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Every secret also has a …_FILE form. Settings: README.md."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
    /// Which parts to run
    #[arg(long, env = "POPBRIDGE_ROLE", value_enum, default_value_t = Role::All)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the API, the sync workers and the webhook dispatcher (the default)
    Serve {
        /// Which parts to run
        #[arg(long, env = "POPBRIDGE_ROLE", value_enum, default_value_t = Role::All)]
        role: Role,
    },
    /// Run all of it against a real POP3 server with real mail, on this machine alone
    Demo {
        /// Check that everything arrives, then stop
        #[arg(long)]
        once: bool,
    },
    /// Diagnose a POP3 server: what it offers, what is odd about it, what to change
    Check(Box<check::command::Check>),
    /// Bring the database up to date
    Migrate,
    /// Print the OpenAPI document
    Openapi,
    /// Manage API keys
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// Run a POP3 server that misbehaves on demand, to test POP3 clients with
    ChaosServer(Box<chaos::Options>),
    /// Exit with 0 if a popbridge on this machine is ready
    Health,
}

#[derive(Debug, Subcommand)]
enum ApiKeyCommand {
    /// Make an API key and print it, once
    #[command(after_help = "Example: popbridge api-key create --name crm --scope messages:read")]
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// What it may do; may be repeated
        #[arg(long, required = true, value_delimiter = ',')]
        scope: Vec<Scope>,
        /// The only mailboxes it may touch, by id; may be repeated; absent: all
        #[arg(long, value_delimiter = ',')]
        mailbox: Vec<Uuid>,
        /// When it ends, such as 30d or 12h; absent: never
        #[arg(long, value_parser = parse_lifetime)]
        expires: Option<time::Duration>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    // For every TLS connection; that another was chosen before cannot be.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli {
        command,
        settings,
        role,
    } = cli;
    let config = || settings.resolve();
    match command.unwrap_or(Command::Serve { role }) {
        Command::Serve { role } => serve(&settings, config()?, role).await,
        Command::Demo { once } => {
            // A demo speaks for itself; its logs are for when something is wrong.
            telemetry::start_logs("warn", settings.logs().1)?;
            popbridge::demo::run(&settings, once, signalled()?).await
        }
        Command::Check(check) => check.run(&settings.egress()?).await,
        Command::Migrate => {
            start_logs(&settings)?;
            app::migrate(config()?).await
        }
        Command::Openapi => print(&format!("{}\n", api::openapi().to_pretty_json()?)),
        Command::ApiKey(command) => create_api_key(config()?, command).await,
        Command::ChaosServer(options) => chaos::run(*options, signalled()?).await,
        Command::Health => app::health(settings.listen()).await,
    }
}

async fn serve(settings: &Settings, config: Config, role: Role) -> anyhow::Result<()> {
    start_logs(settings)?;
    let metrics = telemetry::start_metrics()?;
    let mut signalled = pin!(signalled()?);
    let app = tokio::select! {
        () = &mut signalled => return Ok(()),
        app = App::start(config, role, metrics) => app?,
    };
    app.run_until(signalled).await
}

/// Ends when the process is told to stop, by Ctrl-C or by its supervisor.
fn signalled() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn start_logs(settings: &Settings) -> anyhow::Result<()> {
    let (filter, format) = settings.logs();
    telemetry::start_logs(filter, format)
}

async fn create_api_key(config: Config, command: ApiKeyCommand) -> anyhow::Result<()> {
    let ApiKeyCommand::Create {
        name,
        scope,
        mailbox,
        expires,
    } = command;
    let database = OpenDatabase::join(config.database).await?;
    let expires_at = expires.map(|lifetime| OffsetDateTime::now_utc() + lifetime);
    let key = api::keys::generate();
    let scopes: Vec<String> = scope.iter().map(ToString::to_string).collect();
    let created = async {
        database.store.migrate().await?;
        database
            .store
            .create_api_key(
                &name,
                &api::keys::hash(key.expose_secret()),
                &scopes,
                &mailbox,
                expires_at,
            )
            .await
    }
    .await;
    database.close().await?;
    created?;
    print(&format!("{}\n", key.expose_secret()))
}

/// A number with s, m, h or d.
fn parse_lifetime(text: &str) -> Result<time::Duration, String> {
    let wanted = || format!("`{text}` is no lifetime; write one such as 30d or 12h");
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(wanted)?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wanted()),
    };
    let number: u32 = number.parse().map_err(|_| wanted())?;
    Ok(time::Duration::seconds(i64::from(number) * seconds))
}

#[expect(
    clippy::print_stdout,
    reason = "what a command is asked for goes to standard output"
)]
fn print(text: &str) -> anyhow::Result<()> {
    print!("{text}");
    Ok(())
}

#[expect(
    clippy::print_stderr,
    reason = "the last word, whether or not logs were started"
)]
fn complain(error: &anyhow::Error) {
    eprintln!("popbridge: {error:#}");
}
