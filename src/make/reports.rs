//! The part of a make that concerns reports: whether they are up to date, how they are written, and how they compare
//! with the committed ones.

use petgraph::graph::NodeIndex;

use super::{Make, MakeError};
use crate::committed::{Committed, Reproduction};
use crate::digest::Digest;
use crate::plan::{BuildState, Plan, Verdict};
use crate::publish::{Part, Published};
use crate::run::{Event, Observer};
use crate::store::Writer;

impl<'a> Make<'a> {
    /// Whether everything is fresh and published, and nothing else is published any more.
    pub(super) fn is_published(&self, plan: &Plan) -> bool {
        let is_published = |node: NodeIndex| {
            let step = &self.pipeline.graph[node];
            let has_report = |tree| self.workspace.is_published(step, &tree);
            *plan.verdict(node) == Verdict::Fresh
                && (step.publish.is_none() || plan.of(node).tree.is_some_and(has_report))
        };
        let reports = self.workspace.reports();
        let has_left_over =
            || !reports.left_over(self.pipeline, &self.parts(plan), self.workspace.recorder()).is_empty();
        plan.needed().all(is_published) && (self.project.is_experiment() || !has_left_over())
    }

    /// What there is to publish.
    pub(super) fn parts(&self, plan: &Plan) -> Vec<Part<'a>> {
        let part = |node: NodeIndex| {
            let step = &self.pipeline.graph[node];
            let below = step.publish.as_deref()?;
            let tree = plan.of(node).tree?;
            let manifest = self.workspace.manifest(&tree)?.as_ref().clone();
            Some(Part { step: &step.name, below, manifest, tree })
        };
        plan.needed().filter_map(part).collect()
    }

    /// Writes the reports.
    pub(super) fn publish(&self, writer: &Writer, parts: &[Part]) -> Result<Published, MakeError> {
        // Two at once would each forget what the other wrote.
        let _alone = writer.alone("publish.lock")?;
        let open = |tree: &Digest| self.workspace.open_result(tree, None);
        let reports = self.workspace.reports();
        let published = reports.publish(writer, self.pipeline, parts, &open, self.workspace.recorder());
        published.map_err(|error| {
            let step = error.step().and_then(|name| self.project.step(name).ok());
            match step {
                Some(step) => {
                    let (pipeline, line) =
                        (self.pipeline.file_of(&self.pipeline.graph[step]), self.pipeline.graph[step].line);
                    MakeError::Reports { pipeline, line, error: Box::new(error) }
                }
                None => MakeError::Publish(error),
            }
        })
    }

    /// How a complete run compares with what the project committed. A difference is no failure.
    pub(super) fn compare(
        &self,
        plan: &Plan,
        published: Option<&Published>,
        observer: &mut dyn Observer,
    ) -> Option<Reproduction> {
        let committed = Committed::load(self.pipeline).unwrap_or_else(|error| {
            let text = format!("results are not compared with the evidence: {error}");
            observer.on(&Event::Notice { text: &text });
            Committed::without_evidence(self.pipeline)
        });
        let removed = published.map_or(&[][..], |published| &published.removed);
        committed.verdict(self.pipeline, self.workspace, plan, removed)
    }
}
