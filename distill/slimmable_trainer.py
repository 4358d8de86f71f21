"""The training of a slimmable bottleneck: the sandwich rule, an evaluation at every width, statistics taken anew at the end."""

from __future__ import annotations

from typing import Any

from ..bench.pictures import Pictures, ScenePictures
from .checkpoint import Checkpoint
from .evaluate_widths import evaluate_widths, widths_json
from .feature_match import FeatureMatcher
from .finished import load_chosen
from .goal import require_judged
from .kept_pictures import KeptPictures
from .loader import SampleSet
from .recalibration import recalibrate
from .sandwich import SandwichMatcher
from .stage_wise import Curriculum
from .student_trainer import StudentTrainer
from .teacher import Teacher

RECALIBRATED = "recalibrated.safetensors"
"""The chosen checkpoint with statistics that were taken anew, beside it."""
_STUDENT = "learner.student."


class SlimmableTrainer(StudentTrainer):
    """Trains a student with several widths; the checkpoint that is chosen is the one whose mean mAP over them,
    by the recipe's goal, is highest.

    See `StudentTrainer`. With `recalibrate_images` there is a second checkpoint at the end, judged beside the first.
    """

    def _learner(self, teacher: Teacher, curriculum: Curriculum) -> FeatureMatcher:
        return SandwichMatcher(teacher.model, curriculum.student, self.recipe.student.num_widths)

    def _judge(self) -> dict[str, Any]:
        pictures = _kept(self.pictures.validation)
        self.pictures = self.pictures._replace(validation=pictures)
        num_images = self.recipe.data.validation_images
        found = evaluate_widths(self.learner.student, pictures, num_images, self.preprocess)
        for each in found.values():
            require_judged(self.recipe.goal, each, "validation")
        return widths_json(found)

    def judge_held_out(self) -> dict[str, Any]:
        """Accuracy by width of the chosen checkpoint on the images that decided nothing, and of the recalibrated one."""
        chosen = load_chosen(self.out)
        student = self.learner.student
        student.load_state_dict(chosen.part("learner.student"))
        pictures, num_images = _kept(self.pictures.held_out), self.recipe.data.held_out_images
        result = widths_json(evaluate_widths(student, pictures, num_images, self.preprocess))
        again = self.recipe.student.recalibrate_images
        if again:
            samples = SampleSet(self.pictures.training, self.preprocess, self.recipe.seed)
            recalibrate(student, self._lessons[0], samples, again, self.recipe.batch_size)
            tensors = {f"{_STUDENT}{name}": value for name, value in student.state_dict().items()}
            Checkpoint(position=chosen.position, tensors=tensors).save(self.out / RECALIBRATED)
            found = evaluate_widths(student, pictures, num_images, self.preprocess)
            result["recalibrated"] = widths_json(found)
        return result


def _kept(pictures: Pictures) -> Pictures:
    """Every width looks at them; those of a folder are read again, as there may be many."""
    return KeptPictures(pictures) if isinstance(pictures, ScenePictures) else pictures
