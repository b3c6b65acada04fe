//! Stages of a few lines of text: enough to see what runs, what it reads and how it can go wrong.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{
    Answer, HostCheck, HostError, Job, Port, Registry, ReportPage, Results, Scalars, Stage, StageError, Tool,
    ToolContext, Unit,
};

/// The stage of docs/adding-a-stage.md.
#[path = "count_words.rs"]
mod count_words;

/// All toy stages.
pub fn registry() -> Registry {
    let registry = Registry::new().with(Head).with(Fill).with(Trouble).with(count_words::CountWords);
    // As after a change of the program: the same stage with a raised VERSION.
    match std::env::var_os("TOY_RAISED") {
        Some(_) => registry.with(Join::<2>),
        None => registry.with(Join::<1>),
    }
    .with_tool(Read)
    .with_page(PAGE)
    .with_host_check(HostCheck {
        name: "toy kernels",
        find: || kernels().map(|chosen| format!("{chosen} (of plain, wide)")),
    })
}

/// The kernels that `TOY_KERNELS` names.
fn kernels() -> Result<&'static str, HostError> {
    match std::env::var("TOY_KERNELS").as_deref() {
        Err(_) | Ok("plain") => Ok("plain"),
        Ok("wide") => Ok("wide"),
        Ok(other) => Err(HostError {
            message: format!("TOY_KERNELS is `{other}`, which this machine does not have"),
            hint: "set it to plain or wide, or unset it".to_owned(),
        }),
    }
}

const ANY: Port = Port { optional: true, by_hand: true, ..Port::many("in") };

/// Writes its text and all its inputs to `text`, and each input alone to `parts/N`.
struct Join<const RAISED: u32>;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JoinParams {
    #[serde(default)]
    text: String,
    /// Its duration.
    #[serde(default)]
    ms: u64,
    #[serde(default)]
    style: Style,
}

#[derive(Serialize, Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Style {
    #[serde(default)]
    loud: bool,
}

impl<const RAISED: u32> Stage for Join<RAISED> {
    type Params = JoinParams;
    const NAME: &'static str = "join";
    const ABOUT: &'static str = "joins texts";
    const VERSION: u32 = RAISED;
    const INPUTS: &'static [Port] = &[ANY];
    const HISTORY: Option<&'static str> = Some("text");

    fn read_scalars(&self, text: &Path) -> Result<Vec<Scalars>, StageError> {
        Ok(vec![Scalars::new("length", [(1, read(text)?.len() as f64)].into_iter())])
    }

    fn run(&self, params: &JoinParams, job: &Job) -> Result<(), StageError> {
        log_run(&params.text)?;
        let end = Instant::now() + Duration::from_millis(params.ms);
        while Instant::now() < end {
            job.check_cancelled()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut text = params.text.clone();
        for (number, input) in job.inputs.all("in").into_iter().enumerate() {
            let part = read(input)?;
            text = format!("{text}({part})");
            fs::create_dir_all(job.out.join("parts"))?;
            fs::write(job.out.join("parts").join(number.to_string()), part)?;
        }
        if params.style.loud {
            text = text.to_uppercase();
        }
        job.progress.advance(1, 1, Unit::Items);
        job.progress.scalar("length", 1, text.len() as f64);
        let threads = std::env::var("RAYON_NUM_THREADS").unwrap_or_default();
        job.progress
            .note(&format!("joined on {} with {} threads ({threads})", job.host.device, job.host.threads));
        Ok(fs::write(job.out.join("text"), text)?)
    }
}

/// Writes the first characters of its inputs, so that most changes above it end here.
struct Head;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HeadParams {
    #[serde(default)]
    chars: usize,
}

impl Stage for Head {
    type Params = HeadParams;
    const NAME: &'static str = "head";
    const ABOUT: &'static str = "keeps the beginning of a text";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::many("in")];

    fn run(&self, params: &HeadParams, job: &Job) -> Result<(), StageError> {
        let mut text = String::new();
        for input in job.inputs.all("in") {
            text.extend(read(input)?.chars().take(params.chars));
        }
        Ok(fs::write(job.out.join("text"), text)?)
    }
}

/// Writes files of this many kilobytes each, with bytes of its own.
struct Fill;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FillParams {
    seed: u64,
    kilobytes: usize,
    #[serde(default = "one")]
    files: usize,
}

fn one() -> usize {
    1
}

impl Stage for Fill {
    type Params = FillParams;
    const NAME: &'static str = "fill";
    const ABOUT: &'static str = "writes files of a given size";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[ANY];

    fn run(&self, params: &FillParams, job: &Job) -> Result<(), StageError> {
        log_run(&format!("fill-{}", params.seed))?;
        let mut state = params.seed + 1;
        for input in job.inputs.all("in") {
            state = read(input)?
                .bytes()
                .fold(state, |state, byte| state.wrapping_mul(31).wrapping_add(u64::from(byte)));
        }
        for file in 0..params.files {
            let mut text = String::with_capacity(params.kilobytes * 1024);
            while text.len() < params.kilobytes * 1024 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                text.push_str(&format!("{:015x}\n", state >> 4));
            }
            fs::write(job.out.join(format!("file{file}")), text)?;
        }
        Ok(())
    }
}

/// Appends a line to the file in `TOY_LOG`, if it is set: the steps that ran, whatever the run reports.
fn log_run(what: &str) -> Result<(), StageError> {
    let Some(path) = std::env::var_os("TOY_LOG") else { return Ok(()) };
    let mut log = fs::File::options().create(true).append(true).open(path)?;
    // One write, so that lines of several processes do not mix.
    Ok(log.write_all(format!("{what}\n").as_bytes())?)
}

/// Fails in the requested way.
struct Trouble;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TroubleParams {
    how: String,
}

impl Stage for Trouble {
    type Params = TroubleParams;
    const NAME: &'static str = "trouble";
    const ABOUT: &'static str = "fails as requested";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[ANY];

    #[allow(clippy::panic, reason = "that is one of the troubles")]
    fn run(&self, params: &TroubleParams, job: &Job) -> Result<(), StageError> {
        fs::write(job.out.join("half"), "half")?;
        match params.how.as_str() {
            "panic" => panic!("as requested"),
            "abort" => std::process::abort(),
            "human" => Err(StageError::NeedsHuman { what: "place the archive in data/".to_owned() }),
            "stubborn" => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            "resume" => {
                let attempt = job.scratch.join("attempt");
                if attempt.exists() {
                    return Ok(());
                }
                fs::write(attempt, "1")?;
                Err(StageError::failed("first attempt"))
            }
            "gpus" | "gpus " => {
                let seen = std::env::var("CUDA_VISIBLE_DEVICES");
                job.progress.note(&seen.map_or("unset".to_owned(), |seen| format!("[{seen}]")));
                Ok(())
            }
            // Kernels that round in a different way, which must not happen.
            "kernels" => {
                let number = if kernels().is_ok_and(|chosen| chosen == "wide") { 0.5 } else { 0.4 };
                fs::write(job.out.join("numbers.json"), format!("{{\"loss\": {number}}}"))?;
                Ok(fs::write(job.out.join("weights"), format!("{:0>4096}", number))?)
            }
            "random" => Ok(fs::write(job.out.join("text"), format!("{:?}", Instant::now()))?),
            _ => Err(StageError::failed("as requested")),
        }
    }
}

/// The text of a file, or of all files of a folder with their names.
fn read(path: &Path) -> Result<String, StageError> {
    let failed = |error: std::io::Error| StageError::input("in", path, error);
    if path.is_file() {
        return fs::read_to_string(path).map_err(failed);
    }
    let mut names: Vec<_> = fs::read_dir(path).map_err(failed)?.flatten().map(|item| item.path()).collect();
    names.sort();
    let mut text = String::new();
    for path in names {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        text = format!("{text}{name}={} ", read(&path)?);
    }
    Ok(text)
}

/// `read STEP…`: the output of the steps, one line each.
struct Read;

/// Prints the texts that steps wrote
#[derive(clap::Args)]
struct ReadArgs {
    /// The steps
    #[arg(required = true)]
    steps: Vec<String>,
    /// The text between name and text
    #[arg(long, value_name = "TEXT", default_value = " ")]
    between: String,
    /// End with code 4 when a text is empty
    #[arg(long)]
    check: bool,
}

impl Tool for Read {
    type Args = ReadArgs;
    const NAME: &'static str = "read";
    fn run(&self, args: &ReadArgs, context: &ToolContext) -> Result<Answer, StageError> {
        let mut answer =
            Answer { json: format!("{{\"steps\": {}}}", context.results.steps().len()), ..Answer::default() };
        for step in &args.steps {
            if step == "nonsense" {
                return Err(StageError::Params("`nonsense` is none".to_owned()));
            }
            let text = read(&context.results.output(step)?.join("text"))?;
            answer.stale |= args.check && text.is_empty();
            answer.text += &format!("{step}{}{text}\n", args.between);
        }
        Ok(answer)
    }
}

/// The page of a pipeline with a step of the stage `join`: the state of each step.
const PAGE: ReportPage = ReportPage { stage: "join", render: page };

fn page(results: &dyn Results) -> Result<String, StageError> {
    let steps = results.steps();
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    let mut text = format!("<html><body>\n{}", results.drawing(&names));
    for step in &steps {
        let inputs: Vec<String> = step
            .inputs
            .iter()
            .map(|i| format!("{}={}", i.source, i.digest.as_deref().unwrap_or("?")))
            .collect();
        let tree = step.tree.as_deref().unwrap_or("none");
        text += &format!("<p>{} {} {tree} [{}]</p>\n", step.name, step.state, inputs.join(" "));
    }
    Ok(text + "</body></html>\n")
}
