//! `repro page`: one HTML page about a pipeline's results. A pipeline with a step that has a page of its own gets that one,
//! drawn by the stages; any other gets a plain page of what is published.

mod content;
mod plain;

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, print_data, print_json, tool};

/// Write a page with the results and the origin of every number.
///
/// A pipeline with a step of the stage `report` gets that report, with what is known of the steps here: keys, digests,
/// state, times, hosts, logs and the graph. Any other pipeline gets a plain page of all that is published: tables, figures,
/// metrics and files by name. The page goes to standard output, or to the file that `--out` names. What is not up to date
/// is missing on it, with what to run.
#[derive(Args)]
pub struct Page {
    /// Where the page goes instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Page {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        tool::without_backtraces();
        let folder = self.out.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let reports = global.project(registry)?.workspace()?.reports().folder().to_owned();
        let html = html(global, registry, &relative(folder, &reports))?;
        let Some(out) = &self.out else {
            if global.json {
                print_json(&json!({ "html": html }))?;
            } else {
                print_data(&html)?;
            }
            return Ok(ExitCode::SUCCESS);
        };
        fs::write(out, &html)
            .map_err(|error| CliError::usage(format!("{}: cannot be written: {error}", out.display())))?;
        if global.json {
            print_json(&json!({"file": out, "bytes": html.len()}))?;
        } else {
            print_data(&format!("{}\n", out.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The page as it is now. `reports` is the way from the page to the folder of the reports, for links.
pub fn html(global: &Global, registry: &Registry, reports: &str) -> Result<String, CliError> {
    let folder = global.project(registry)?.workspace()?.reports().folder().to_owned();
    tool::with_results(global, registry, &[], |context| {
        let steps = context.results.steps();
        let own = registry.pages().find(|page| steps.iter().any(|step| step.stage == page.stage));
        match own {
            Some(page) => {
                (page.render)(context.results).map_err(|error| CliError::Tool { tool: "page", error })
            }
            None => Ok(plain::render(context.results, &steps, &folder, reports)),
        }
    })?
}

/// The way from one folder to another, as a relative address with a slash at its end; the whole path where there is none.
fn relative(from: &Path, to: &Path) -> String {
    let absolute = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
    };
    let (from, to) = (absolute(from), absolute(to));
    let parts = |path: &Path| -> Vec<String> {
        let normal = path.components().filter(|part| matches!(part, Component::Normal(_)));
        normal.map(|part| content::address(&part.as_os_str().to_string_lossy())).collect()
    };
    let (from, to) = (parts(&from), parts(&to));
    let shared = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
    let up = vec!["..".to_owned(); from.len() - shared];
    let way: String = up.iter().chain(&to[shared..]).map(|part| format!("{part}/")).collect();
    if way.is_empty() { "./".to_owned() } else { way }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_from_the_page_to_the_reports() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("pro ject/reports/mini")).unwrap();
        fs::create_dir_all(at("web")).unwrap();
        let reports = at("pro ject/reports/mini");
        assert_eq!(relative(&at("web"), &reports), "../pro%20ject/reports/mini/");
        assert_eq!(relative(&at("pro ject"), &reports), "reports/mini/");
        assert_eq!(relative(&reports, &reports), "./");
    }
}
