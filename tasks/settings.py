"""All settings of the pipeline: those of the science, and where runs and data versions are kept.

``params.yaml`` is these settings on disk. The flow takes them as its parameter (its form in the Prefect page), DVC
watches them, MLflow logs them.
"""

from pydantic import Field, field_validator

from beft.evaluation.promotion.rules import PromotionRules
from beft.settings import Settings
from beft.training_settings import Section
from tasks.passwords import INSTEAD, holds_password


class TrackingSettings(Section):
    """Where MLflow keeps runs and models."""

    uri: str | None = Field(
        None,
        description="where MLflow is; None: $MLFLOW_TRACKING_URI, else mlflow/mlflow.db in the project's folder",
    )
    experiment: str = Field(
        "beft", min_length=1, max_length=240, description="the MLflow experiment that the runs belong to"
    )
    model_prefix: str = Field(
        "beft", pattern=r"^[a-z0-9][a-z0-9_-]*$", description="first part of the names of registered models"
    )

    @field_validator("uri")
    @classmethod
    def _uri_can_be_kept(cls, value: str | None) -> str | None:
        if value and holds_password(value):
            raise ValueError(f"an address that is kept with every run must hold no password; {INSTEAD}")
        return value


class VersioningSettings(Section):
    """Where DVC keeps versions of the data."""

    push: bool = Field(True, description="copy every data version to the remote")
    remote: str | None = Field(None, description="name of a DVC remote; None: the default one of .dvc/config")


class MeasureSettings(Section):
    """What one measurement trains; ``beft reproduce`` fills it in for each that it plans."""

    methods: tuple[str, ...] = Field(
        ("all_biases", "value", "query", "key"), min_length=1, description="bias terms and other methods, side by side"
    )
    seeds: tuple[int, ...] = Field(
        (), description="seeds whose runs share a pass, over one draw of the sample; empty: the seed of these settings"
    )
    compared_learning_rates: tuple[float, ...] = Field(
        (), description="every bias term is trained and measured with each of them; empty: as train says"
    )
    compared_epochs: tuple[int, ...] = Field(
        (), description="every bias term is trained and measured at each of these lengths; empty: as train says"
    )
    weight_learning_rate: float | None = Field(
        None, gt=0, le=1, description="of methods that train weights; None: the usual one of each method"
    )
    search_rates: bool = Field(
        False,
        description="each method tries three learning rates about its usual one where none are named, and dev chooses; "
        "not where rates or lengths are compared",
    )
    random_weights_of: str = Field(
        "value", description="rand_uniform trains as many single weights as this term's biases (or all_biases) have"
    )

    @property
    def searches(self) -> bool:
        """Whether learning rates are searched."""
        return self.search_rates and not (self.compared_learning_rates or self.compared_epochs)


class DeploymentSettings(Section):
    """What ``beft deploy`` sets on the Prefect server besides the deployments of ``prefect.yaml``."""

    gpu_tasks: int | None = Field(
        None,
        ge=1,
        description="how many steps with the tag gpu run at once on all machines together; None: as many as the "
        "machine that deploys can run",
    )
    webhook: str | None = Field(
        None,
        pattern=r"^https?://",
        exclude=True,  # who has it can post; `beft deploy` alone needs it, and no run's parameters or files show it
        description="address that gets a JSON object with a text when a nightly run failed; None: no one is told",
    )

    @field_validator("webhook")
    @classmethod
    def _webhook_can_be_kept(cls, value: str | None) -> str | None:
        if value and holds_password(value):
            raise ValueError("the address of a webhook must hold no password: params.yaml is kept in git")
        return value


class PipelineSettings(Settings):
    """The settings of the science and of the pipeline around it."""

    measure: MeasureSettings = MeasureSettings()
    tracking: TrackingSettings = TrackingSettings()
    versioning: VersioningSettings = VersioningSettings()
    promotion: PromotionRules = PromotionRules()
    deployment: DeploymentSettings = DeploymentSettings()
