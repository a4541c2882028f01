//! A program that is killed before or after the n-th of its calls that change a filesystem, by whoever traces it.
#![expect(unsafe_code, reason = "there is no other way to stop a process between two calls of the kernel")]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use libc::{c_long, c_void, pid_t};

/// On which side of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// It is not done.
    Before,
    /// It is done, and who called it never hears of it.
    After,
}

/// Which process of those that a command starts is killed, and at which of its calls.
#[derive(Debug, Clone, Copy)]
pub struct Death {
    /// Whether it is the victim, by its command line.
    pub is_victim: fn(&[String]) -> bool,
    /// The first call is 1.
    pub nth: usize,
    pub when: When,
    /// Which calls count, by their number and second argument, which says of an ioctl which one it is; those that change nothing never do.
    pub counts: fn(u64, u64) -> bool,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// How many calls of the victim were counted.
    pub n_calls: usize,
    /// The last of them.
    pub last: String,
    /// Its number and its second argument.
    pub last_call: (u64, u64),
    /// Whether the victim was killed.
    pub killed: bool,
    /// How the command itself ended; none if by a signal.
    pub code: Option<i32>,
}

/// Every call counts.
pub fn any(_: u64, _: u64) -> bool {
    true
}

/// Whether that is the command line of `cowsnap replicate`.
pub fn replicates(words: &[String]) -> bool {
    words.iter().any(|word| word == "replicate")
}

/// Whether that is the command line of `cowsnap serve`, also of one that works on a disk of this machine.
pub fn serves(words: &[String]) -> bool {
    let is_program = |word: &String| word.ends_with("cowsnap") || word == "/proc/self/exe";
    words.first().is_some_and(is_program) && words.iter().any(|word| word == "serve")
}

/// Runs `command` until it and all that it has started are gone.
#[expect(clippy::zombie_processes, reason = "whoever follows all of them waits for all of them")]
pub fn run(mut command: Command, death: Death) -> Ended {
    command.stdin(Stdio::null());
    let trace_me = || {
        // SAFETY: no pointer is read.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: one call of the kernel, between fork and exec.
    unsafe { command.pre_exec(trace_me) };
    let child = command.spawn().expect("it starts");
    let mut tracer = Tracer {
        first: child.id() as pid_t,
        death,
        tasks: HashMap::new(),
        processes: HashMap::new(),
        ended: Ended { n_calls: 0, last: String::new(), last_call: (0, 0), killed: false, code: None },
    };
    tracer.follow();
    tracer.ended
}

/// Follows a program, in the thread that has started it.
struct Tracer {
    first: pid_t,
    death: Death,
    tasks: HashMap<pid_t, Task>,
    /// Whether it is the victim.
    processes: HashMap<pid_t, bool>,
    ended: Ended,
}

struct Task {
    process: pid_t,
    /// The number of the counted call that it is in.
    within: Option<usize>,
}

impl Tracer {
    fn follow(&mut self) {
        let mut set_up = HashSet::new();
        loop {
            let mut status = 0;
            // SAFETY: `status` is written to and outlives the call.
            let task = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
            if task == -1 {
                return;
            }
            if !libc::WIFSTOPPED(status) {
                if task == self.first {
                    self.ended.code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
                }
                self.tasks.remove(&task);
                continue;
            }
            let is_new = set_up.insert(task);
            if is_new && task == self.first {
                let options = libc::PTRACE_O_TRACESYSGOOD
                    | libc::PTRACE_O_TRACECLONE
                    | libc::PTRACE_O_TRACEFORK
                    | libc::PTRACE_O_TRACEVFORK
                    | libc::PTRACE_O_TRACEEXEC
                    | libc::PTRACE_O_EXITKILL;
                // SAFETY: no pointer is read.
                unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, task, 0, options as c_long) };
            }
            let signal = self.stopped(task, status, is_new);
            // SAFETY: no pointer is read; who is dead already is not there to be told.
            unsafe { libc::ptrace(libc::PTRACE_SYSCALL, task, 0, c_long::from(signal)) };
        }
    }

    /// What to pass on to a task that stands still.
    fn stopped(&mut self, task: pid_t, status: i32, is_new: bool) -> i32 {
        let signal = libc::WSTOPSIG(status);
        if signal == libc::SIGTRAP | 0x80 {
            self.at_call(task);
            return 0;
        }
        let event = status >> 16;
        if event == libc::PTRACE_EVENT_EXEC {
            self.tasks.remove(&task);
            self.processes.remove(&task);
        }
        // It begins with one that nobody has sent.
        let is_ours = event != 0 || is_new && matches!(signal, libc::SIGSTOP | libc::SIGTRAP);
        if is_ours { 0 } else { signal }
    }

    fn at_call(&mut self, task: pid_t) {
        let process =
            self.tasks.entry(task).or_insert_with(|| Task { process: process_of(task), within: None });
        let (process, within) = (process.process, process.within.take());
        let Death { is_victim, counts, .. } = self.death;
        if !*self.processes.entry(process).or_insert_with(|| is_victim(&words_of(process)))
            || self.ended.killed
        {
            return;
        }
        let call = call_of(task);
        let number = match (call.op, within) {
            (ENTRY, _) if changes_a_filesystem(&call) && counts(call.number, call.arguments[1]) => {
                self.ended.n_calls += 1;
                self.ended.last_call = (call.number, call.arguments[1]);
                self.ended.last = format!("call {} of {:?}", call.number, &call.arguments[..3]);
                self.tasks.get_mut(&task).expect("seen").within = Some(self.ended.n_calls);
                (self.death.when == When::Before).then_some(self.ended.n_calls)
            }
            (EXIT, Some(number)) => (self.death.when == When::After).then_some(number),
            _ => None,
        };
        if number == Some(self.death.nth) {
            self.ended.killed = true;
            // SAFETY: no pointer is read.
            assert_eq!(unsafe { libc::kill(process, libc::SIGKILL) }, 0, "it was there a moment ago");
        }
    }
}

fn process_of(task: pid_t) -> pid_t {
    let status = fs::read_to_string(format!("/proc/{task}/status")).unwrap_or_default();
    let of = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    of.and_then(|of| of.trim().parse().ok()).unwrap_or(task)
}

fn words_of(process: pid_t) -> Vec<String> {
    let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

const ENTRY: u8 = 1;
const EXIT: u8 = 2;

/// The beginning of the kernel's `struct ptrace_syscall_info`.
#[repr(C)]
#[derive(Default)]
struct Call {
    op: u8,
    padding: [u8; 3],
    arch: u32,
    instruction: u64,
    stack: u64,
    number: u64,
    arguments: [u64; 6],
}

fn call_of(task: pid_t) -> Call {
    const PTRACE_GET_SYSCALL_INFO: libc::c_uint = 0x420e;
    let mut call = Call::default();
    let into: *mut c_void = (&raw mut call).cast();
    // SAFETY: the kernel writes no more than the length that it is given, and that is the length of `call`.
    unsafe { libc::ptrace(PTRACE_GET_SYSCALL_INFO, task, size_of::<Call>(), into) };
    call
}

/// Calls that make, name, change or remove something on a filesystem; what is written into a file that is open already is not among them,
/// but for what a receive writes at a place of its choice.
fn changes_a_filesystem(call: &Call) -> bool {
    match call.number as c_long {
        libc::SYS_openat => {
            call.arguments[2] as i32 & (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) != 0
        }
        libc::SYS_ioctl => is_changing_ioctl(call.arguments[1]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename
        | libc::SYS_mkdir
        | libc::SYS_rmdir
        | libc::SYS_unlink
        | libc::SYS_link
        | libc::SYS_symlink
        | libc::SYS_chmod => true,
        libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_mkdirat
        | libc::SYS_unlinkat
        | libc::SYS_linkat
        | libc::SYS_symlinkat
        | libc::SYS_mknodat
        | libc::SYS_fchmod
        | libc::SYS_fchmodat
        | libc::SYS_fchown
        | libc::SYS_fchownat
        | libc::SYS_utimensat
        | libc::SYS_ftruncate
        | libc::SYS_fallocate
        | libc::SYS_fsetxattr
        | libc::SYS_setxattr
        | libc::SYS_pwrite64
        | libc::SYS_pwritev
        | libc::SYS_syncfs => true,
        _ => false,
    }
}

/// The calls of btrfs and ZFS that do not only read, and those that set a file's flags.
fn is_changing_ioctl(request: u64) -> bool {
    let (kind, number) = ((request >> 8) as u8, request as u8);
    match kind {
        // Sync, clones, subvolumes and snapshots made and destroyed, flags, a received uuid, a send, encoded writes.
        0x94 => matches!(number, 8 | 9 | 13..=15 | 22..=24 | 26 | 37 | 38 | 63 | 64),
        b'f' => number == 2,
        // Properties, datasets, receives, snapshots, holds, sends, clones, bookmarks, programs.
        b'Z' => {
            matches!(
                number,
                0x16..=0x1c
                    | 0x22
                    | 0x23
                    | 0x2b
                    | 0x30
                    | 0x31
                    | 0x3b
                    | 0x40
                    | 0x42
                    | 0x43
                    | 0x45
                    | 0x46
                    | 0x48
            )
        }
        _ => false,
    }
}
