//! `scripts/vm`: a guest to try things in, and the tests of cowsnap run in it.
//!
//! usage: vm [--bpo] [--it PROGRAM] [--place PATH]… COMMAND
//!   image            builds the image unless it is there; prints its folder
//!   up               boots a guest that stays
//!   run SCRIPT       runs it with `sh -c` in the guest that stays, else in one of its own
//!   test FILTER…     runs the tests of PROGRAM whose names contain a FILTER (the tier's if none is given), likewise
//!   down             ends the guest that stays
//! PATHs, and PROGRAM, stand at the same place in the guest.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use vm_tests::suite::{self, Share, Suite};
use vm_tests::{Guest, Image, Machine, Payload, Piece, Result, Variant};

const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// For a command by hand.
const RUN_LIMIT: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1)) else {
        eprintln!("usage: vm [--bpo] [--it PROGRAM] [--place PATH]… image|up|run SCRIPT|test [FILTER]…|down");
        return ExitCode::from(2);
    };
    match arguments.obey() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(because) = cause {
                eprintln!("caused by: {because}");
                cause = because.source();
            }
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    variant: Variant,
    program: Option<PathBuf>,
    places: Vec<PathBuf>,
    command: String,
    rest: Vec<String>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let (mut variant, mut program, mut places) = (Variant::Stable, None, Vec::new());
        loop {
            match words.next()?.as_str() {
                "--bpo" => variant = Variant::Backports,
                "--it" => program = Some(words.next()?.into()),
                "--place" => places.push(words.next()?.into()),
                option if option.starts_with('-') => return None,
                command => {
                    let (command, rest) = (command.to_owned(), words.collect());
                    return Some(Self { variant, program, places, command, rest });
                }
            }
        }
    }

    fn obey(&self) -> Result<ExitCode> {
        match (self.command.as_str(), self.rest.as_slice()) {
            ("image", []) => println!("{}", Image::ready(self.variant)?.folder().display()),
            ("up", []) => self.up()?,
            ("down", []) => Guest::end_kept(&self.folder()),
            ("run", [script]) => return run(&mut self.guest()?, script),
            ("test", filters) => {
                let Some(program) = &self.program else {
                    eprintln!("error: --it names no program to test");
                    return Ok(ExitCode::from(2));
                };
                let share = match std::env::var("COWSNAP_VM_SHARE") {
                    Ok(text) => match Share::parse(&text) {
                        Some(share) => Some(share),
                        None => {
                            eprintln!(
                                "error: COWSNAP_VM_SHARE={text}: it is written as 2/3, the second of three"
                            );
                            return Ok(ExitCode::from(2));
                        }
                    },
                    Err(_) => None,
                };
                let suite = Suite::of(program, filters)?.share(share).within(all_tests_limit());
                let passed = suite.run(&mut || self.guest(), &mut suite::print)?;
                return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            _ => {
                eprintln!("error: no such command: {} {:?}", self.command, self.rest);
                return Ok(ExitCode::from(2));
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn up(&self) -> Result<()> {
        let folder = self.folder();
        if Guest::is_kept(&folder) {
            println!("it is up already");
            return Ok(());
        }
        let began = std::time::Instant::now();
        self.machine()?.boot_and_leave(&folder)?;
        println!(
            "up after {:.1} s; its console: {}",
            began.elapsed().as_secs_f32(),
            folder.join("console").display()
        );
        Ok(())
    }

    /// The one that stays, with the files as they are now, else a new one.
    fn guest(&self) -> Result<Guest> {
        if Guest::is_kept(&self.folder()) {
            return Guest::kept(&self.folder(), &self.payload(), BOOT_LIMIT);
        }
        self.machine()?.boot()
    }

    fn machine(&self) -> Result<Machine> {
        Ok(Machine::new(Image::ready(self.variant)?, self.payload()))
    }

    fn payload(&self) -> Payload {
        let agent = std::env::current_exe().expect("a program knows where it is").with_file_name("vm-agent");
        self.program.iter().chain(&self.places).fold(Payload::new(&agent), |payload, file| payload.with(file))
    }

    /// One guest that stays per checkout and variant. Not below it: the name of a socket may have 107 bytes.
    fn folder(&self) -> PathBuf {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("vm-tests is in a checkout");
        let name = checkout.to_string_lossy().replace('/', "-");
        Path::new("/tmp").join(format!(
            "cowsnap-vm{}-{}",
            &name[name.len().saturating_sub(60)..],
            self.variant.name()
        ))
    }
}

/// `COWSNAP_VM_LIMIT`, in seconds: what all tests may take, and a machine that is to build the image first.
fn all_tests_limit() -> Option<Duration> {
    std::env::var("COWSNAP_VM_LIMIT").ok().and_then(|s| s.parse().ok()).map(Duration::from_secs)
}

fn run(guest: &mut Guest, script: &str) -> Result<ExitCode> {
    use std::io::Write;
    let mut running = guest.start(script)?;
    loop {
        match running.next(RUN_LIMIT)? {
            Piece::Output(bytes) => {
                let mut out = std::io::stdout().lock();
                let _ = out.write_all(&bytes).and_then(|()| out.flush());
            }
            Piece::Over(code) => return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        }
    }
}
