//! The results that the project committed, and how those of now compare with them: the records of the evidence, and the
//! reports as git's HEAD has them. What is neither in the one nor in the other is not compared, and nothing is said of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::compare::{self, Difference};
use crate::diff::{JsonReports, ReportDiff};
use crate::digest::Digest;
use crate::divergence::{self, Comparison, Divergence};
use crate::evidence::Evidence;
use crate::git::Git;
use crate::pipeline::Pipeline;
use crate::plan::{BuildState, Plan};
use crate::store::StoreError;
use crate::workspace::Workspace;

/// What the project committed.
pub struct Committed {
    evidence: Evidence,
    reports: Option<HeadReports>,
}

/// The reports of a profile at HEAD.
struct HeadReports {
    git: Git,
    /// The object of each file, by its path relative to the project.
    objects: BTreeMap<String, String>,
}

/// How a report compares with HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Same,
    Changed,
    New,
}

/// A published step, and each of its reports: the path relative to the project, and how it compares.
type Published = BTreeMap<NodeIndex, Vec<(String, Standing)>>;

impl Committed {
    /// What is committed of a profile: its evidence, and its reports where the project is in a git repository.
    ///
    /// # Errors
    /// Evidence that cannot be read.
    pub fn load(pipeline: &Pipeline) -> Result<Self, StoreError> {
        let evidence = Evidence::load(&Evidence::folder(pipeline))?;
        Ok(Self { evidence, ..Self::without_evidence(pipeline) })
    }

    /// The reports alone.
    pub fn without_evidence(pipeline: &Pipeline) -> Self {
        let reports = HeadReports::load(&pipeline.root, &pipeline.profile);
        Self { evidence: Evidence::default(), reports }
    }

    /// Whether there is nothing to compare with.
    pub fn is_empty(&self) -> bool {
        self.evidence.is_empty() && self.reports.is_none()
    }

    /// Compares the steps of a plan. A published step that the evidence does not record is compared by its reports, if
    /// these are its result of now.
    pub fn compare(&self, pipeline: &Pipeline, workspace: &Workspace, plan: &Plan) -> Compared {
        let published = self.published(pipeline, workspace, plan);
        let is_same = |node: NodeIndex, tree: &Digest| match self.evidence.last(&pipeline.graph[node].name) {
            Some(record) => Some(record.tree == *tree),
            // A step that published nothing before has nothing to be compared with.
            None => published
                .get(&node)
                .filter(|files| files.iter().any(|(_, s)| *s != Standing::New))
                .map(|files| files.iter().all(|(_, standing)| *standing == Standing::Same)),
        };
        let steps = divergence::compare(pipeline, plan, is_same);
        Compared { steps, published }
    }

    /// The published steps whose reports on disk are what they wrote.
    fn published(&self, pipeline: &Pipeline, workspace: &Workspace, plan: &Plan) -> Published {
        let Some(reports) = &self.reports else { return Published::new() };
        let mut files: Vec<(NodeIndex, String)> = Vec::new();
        for node in plan.needed() {
            let step = &pipeline.graph[node];
            let Some(tree) = plan.of(node).tree.filter(|tree| workspace.is_published(step, tree)) else {
                continue;
            };
            for (path, _) in workspace.published_files(step, &tree).unwrap_or_default() {
                let path = path.strip_prefix(&pipeline.root).unwrap_or(&path);
                files.push((node, path.to_string_lossy().into_owned()));
            }
        }
        let paths: Vec<&str> = files.iter().map(|(_, path)| path.as_str()).collect();
        let Ok(objects) = reports.git.hash_files(&paths) else { return Published::new() };
        let mut published = Published::new();
        for ((node, path), object) in files.into_iter().zip(objects) {
            let standing = match reports.objects.get(&path) {
                Some(committed) if *committed == object => Standing::Same,
                Some(_) => Standing::Changed,
                None => Standing::New,
            };
            published.entry(node).or_default().push((path, standing));
        }
        published
    }

    /// How the first steps that differ do so.
    pub fn first(
        &self,
        pipeline: &Pipeline,
        workspace: &Workspace,
        plan: &Plan,
        compared: &Compared,
    ) -> Vec<Divergence> {
        let divergence = |node: &NodeIndex| match self.evidence.last(&pipeline.graph[*node].name) {
            Some(record) => {
                Divergence::from_record(pipeline, workspace, plan, *node, (&self.evidence, record))
            }
            None => {
                let files = compared.published.get(node).into_iter().flatten();
                let files = files.filter_map(|(path, standing)| self.difference(pipeline, path, *standing));
                Divergence::in_reports(pipeline, workspace, plan, *node, files.collect())
            }
        };
        compared.steps.first.iter().map(divergence).collect()
    }

    /// The values of JSON reports at HEAD, compared with those on disk. Reports that are not JSON are left out.
    fn values(&self, pipeline: &Pipeline, paths: &[String]) -> ComparedValues {
        let Some(reports) = &self.reports else { return ComparedValues::default() };
        let paths = paths.iter().filter(|path| path.ends_with(".json"));
        let (names, objects): (Vec<&String>, Vec<&str>) =
            paths.filter_map(|path| Some((path, reports.objects.get(path)?.as_str()))).unzip();
        let (mut old, mut new) = (JsonReports::new(), JsonReports::new());
        for (name, bytes) in names.into_iter().zip(reports.git.contents(&objects).unwrap_or_default()) {
            let now = std::fs::read(pipeline.root.join(name)).ok();
            let now = now.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            if let (Ok(was), Some(now)) = (serde_json::from_slice(&bytes), now) {
                old.insert(name.clone(), was);
                new.insert(name.clone(), now);
            }
        }
        ComparedValues::from(&ReportDiff::compare(&old, &new))
    }

    fn difference(&self, pipeline: &Pipeline, path: &str, standing: Standing) -> Option<Difference> {
        let reports = self.reports.as_ref()?;
        let how = match standing {
            Standing::Same => return None,
            Standing::New => "is not committed".to_owned(),
            Standing::Changed => {
                let old = reports.git.object(reports.objects.get(path)?).ok().flatten();
                let bytes = old.zip(std::fs::read(pipeline.root.join(path)).ok());
                let how = bytes.and_then(|(old, new)| compare::measure_file(path, &old, &new));
                how.unwrap_or_else(|| "has different bytes".to_owned())
            }
        };
        Some(Difference { path: path.to_owned(), how })
    }

    /// How a finished run compares with what is committed; `None` where there is nothing to compare with. `removed` are the
    /// reports that the run removed, relative to the reports folder.
    pub fn verdict(
        &self,
        pipeline: &Pipeline,
        workspace: &Workspace,
        plan: &Plan,
        removed: &[PathBuf],
    ) -> Option<Reproduction> {
        let compared = self.compare(pipeline, workspace, plan);
        let graph = &pipeline.graph;
        let names = |nodes: &[NodeIndex]| nodes.iter().map(|node| graph[*node].name.clone()).collect();
        // What is known by the evidence alone is the same in any case.
        let has_run = |node: &&NodeIndex| {
            let key = plan.of(**node).key_text.as_ref().map(|text| text.key());
            key.is_some_and(|key| workspace.store().tree_of(&key).is_some())
        };
        let reports = self.reports.as_ref().map(|reports| {
            let of = |how: Standing| -> Vec<String> {
                let files = compared.published.values().flatten();
                files.filter(|(_, standing)| *standing == how).map(|(path, _)| path.clone()).collect()
            };
            let (root, folder) = (&pipeline.root, workspace.reports().folder());
            let removed: BTreeSet<PathBuf> = removed.iter().map(|file| folder.join(file)).collect();
            // Reports of steps that this run did not need are no concern of it.
            let all_needed = graph
                .node_indices()
                .filter(|node| graph[*node].publish.is_some())
                .all(|node| plan.of(node).tree.is_some());
            let is_gone = |path: &&String| {
                let file = root.join(path);
                !file.exists() && (all_needed || removed.contains(&file))
            };
            let gone = reports.objects.keys().filter(is_gone).cloned().collect();
            let (same, changed) = (of(Standing::Same), of(Standing::Changed));
            ComparedReports {
                same: same.len(),
                values: match changed.is_empty() {
                    true => ComparedValues::default(),
                    false => self.values(pipeline, &[same, changed.clone()].concat()),
                },
                changed,
                new: of(Standing::New),
                gone,
            }
        });
        let steps = ComparedSteps {
            same: compared.steps.same.iter().filter(has_run).count(),
            differing: names(&compared.steps.differing),
            first: names(&compared.steps.first),
        };
        let reports = reports.filter(|reports| !reports.is_empty());
        (reports.is_some() || steps.same + steps.differing.len() > 0)
            .then_some(Reproduction { reports, steps })
    }
}

impl HeadReports {
    /// `None` without git, without a commit, and where the commit has no reports of the profile.
    fn load(root: &Path, profile: &str) -> Option<Self> {
        let git = Git::open(root).ok()?;
        let objects = git.objects("HEAD", &format!("reports/{profile}")).ok()?;
        (!objects.is_empty()).then_some(Self { git, objects })
    }
}

/// Steps and reports compared with what is committed.
pub struct Compared {
    /// The steps.
    pub steps: Comparison,
    published: Published,
}

/// How a run compares with what the project committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reproduction {
    /// The reports of the run; absent where HEAD has none.
    pub reports: Option<ComparedReports>,
    /// The steps that ran with this cache.
    pub steps: ComparedSteps,
}

/// Reports compared with those at HEAD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComparedReports {
    /// How many have the committed bytes.
    pub same: usize,
    /// Those with other bytes, by their paths.
    pub changed: Vec<String>,
    /// Those that are not committed.
    pub new: Vec<String>,
    /// Those that are committed and no longer published.
    pub gone: Vec<String>,
    /// The values with an interval in those with other bytes.
    pub values: ComparedValues,
}

/// Reported values compared with those at HEAD as `repro diff` does it. Empty where no report has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ComparedValues {
    /// The result in a few words.
    pub verdict: String,
    /// How many values with an interval were compared.
    pub intervals: usize,
    /// Those whose difference is significant, by report and position.
    pub significant: Vec<String>,
}

impl From<&ReportDiff> for ComparedValues {
    fn from(diff: &ReportDiff) -> Self {
        let significant = diff.significant().map(|change| format!("{}: {}", change.file, change.at));
        Self { verdict: diff.verdict(), intervals: diff.intervals, significant: significant.collect() }
    }
}

impl ComparedReports {
    fn is_empty(&self) -> bool {
        self.same == 0 && self.are_committed()
    }

    /// Whether there is no other report than the committed ones.
    pub fn are_committed(&self) -> bool {
        self.changed.is_empty() && self.new.is_empty() && self.gone.is_empty()
    }
}

/// Results of steps compared with the evidence, or with the reports at HEAD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComparedSteps {
    /// How many gave the committed result.
    pub same: usize,
    /// Those that gave another one.
    pub differing: Vec<String>,
    /// Those of them that read none of the others.
    pub first: Vec<String>,
}
