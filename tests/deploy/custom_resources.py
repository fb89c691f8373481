"""What operators take: the fields of KubeRay, Kueue and the Prometheus operator that the recipes use.

Written from their documentation, since no package has their schemas. Anything else in an object is refused, so that a
misspelt field does not go to a cluster that drops it silently. Pods in them are checked as pods of Kubernetes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Label = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
Labels = dict[str, Label]
Whole = Annotated[int, Field(ge=0)]
Quantity = Annotated[str, Field(pattern=r"^[0-9.]+(m|Ki|Mi|Gi|Ti)?$")] | Whole


class Part(BaseModel):
    """A mapping that has no other fields, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Meta(Part):
    """Of every object."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    namespace: str | None = None
    labels: Labels = {}
    annotations: dict[str, str] = {}


class Template(Part):
    """A pod, which is checked as one."""

    metadata: dict[str, dict[str, str]] = {}
    spec: dict[str, Any]


class Resources(Part):
    """Of a container."""

    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


# KubeRay, ray.io/v1 --------------------------------------------------------------------------------------------------


class Auth(Part):
    """Since 1.5.1."""

    mode: Literal["disabled", "token"]


class Autoscaler(Part):
    """The container that KubeRay puts beside the head."""

    version: Literal["v1", "v2"] = "v1"
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] = "Default"  # noqa: N815  # KubeRay's own names
    idleTimeoutSeconds: Whole = 60  # noqa: N815
    resources: Resources
    env: list[dict[str, str]] = []
    volumeMounts: list[dict[str, Any]] = []  # noqa: N815
    securityContext: dict[str, Any]  # noqa: N815


class Head(Part):
    """A head."""

    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"  # noqa: N815
    rayStartParams: dict[str, str]  # noqa: N815
    template: Template


class Group(Part):
    """Workers; ``labels`` since 1.5."""

    groupName: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]  # noqa: N815
    replicas: Whole | None = None
    minReplicas: Whole  # noqa: N815
    maxReplicas: Whole  # noqa: N815
    labels: Labels = {}
    rayStartParams: dict[str, str]  # noqa: N815
    template: Template

    @model_validator(mode="after")
    def _in_order(self) -> Group:
        if self.minReplicas > self.maxReplicas:
            raise ValueError("more at least than at most")
        return self


class Ray(Part):
    """A cluster."""

    rayVersion: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]  # noqa: N815
    authOptions: Auth  # noqa: N815
    enableInTreeAutoscaling: bool = False  # noqa: N815
    autoscalerOptions: Autoscaler | None = None  # noqa: N815
    headGroupSpec: Head  # noqa: N815
    workerGroupSpecs: list[Group] = []  # noqa: N815

    @model_validator(mode="after")
    def _known_groups(self) -> Ray:
        names = [group.groupName for group in self.workerGroupSpecs]
        if len(set(names)) < len(names):
            raise ValueError("two groups of one name")
        if self.autoscalerOptions is not None and not self.enableInTreeAutoscaling:
            raise ValueError("options of an autoscaler that is off")
        return self


class Submitter(Part):
    """The Job that follows."""

    backoffLimit: Whole  # noqa: N815


class RayJobSpec(Part):
    """A run on a cluster of its own. What the operator refuses together is left out: a cluster that is chosen."""

    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode"]  # noqa: N815
    backoffLimit: Whole  # noqa: N815
    shutdownAfterJobFinishes: bool  # noqa: N815
    ttlSecondsAfterFinished: Whole  # noqa: N815
    submitterConfig: Submitter  # noqa: N815
    submitterPodTemplate: Template  # noqa: N815
    rayClusterSpec: Ray  # noqa: N815

    @model_validator(mode="after")
    def _kept_until(self) -> RayJobSpec:
        if self.ttlSecondsAfterFinished and not self.shutdownAfterJobFinishes:
            raise ValueError("a time to keep a cluster that is not ended")
        return self


class RayCluster(Part):
    """ray.io/v1."""

    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayCluster"]
    metadata: Meta
    spec: Ray


class RayJob(Part):
    """ray.io/v1; the name becomes a label with a suffix behind it."""

    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayJob"]
    metadata: Meta
    spec: RayJobSpec


# Kueue ---------------------------------------------------------------------------------------------------------------


class Quota(Part):
    """Of one resource."""

    name: str
    nominalQuota: Quantity  # noqa: N815


class FlavorQuotas(Part):
    """Of one kind of machines."""

    name: str
    resources: list[Quota]


class QuotaGroup(Part):
    """Resources that are given out together: each flavour has them all, in one order."""

    coveredResources: list[str]  # noqa: N815
    flavors: list[FlavorQuotas]

    @model_validator(mode="after")
    def _covered(self) -> QuotaGroup:
        for flavor in self.flavors:
            if [quota.name for quota in flavor.resources] != self.coveredResources:
                raise ValueError(f"{flavor.name} does not cover what it should, in that order")
        return self


class ClusterQueueSpec(Part):
    """Who may use how much."""

    namespaceSelector: dict[str, Any]  # noqa: N815
    resourceGroups: list[QuotaGroup]  # noqa: N815


class LocalQueueSpec(Part):
    """A queue of a namespace."""

    clusterQueue: str  # noqa: N815


class FlavorSpec(Part):
    """A kind of machines."""

    nodeLabels: Labels  # noqa: N815


class Queueing(Part):
    """kueue.x-k8s.io/v1beta2."""

    apiVersion: Literal["kueue.x-k8s.io/v1beta2"]  # noqa: N815
    kind: str
    metadata: Meta


class ResourceFlavor(Queueing):
    """A kind of machines."""

    spec: FlavorSpec


class ClusterQueue(Queueing):
    """Of the whole cluster."""

    spec: ClusterQueueSpec


class LocalQueue(Queueing):
    """Of a namespace."""

    spec: LocalQueueSpec


# Prometheus operator -------------------------------------------------------------------------------------------------


class SecretKey(Part):
    """Where a secret stands."""

    name: str
    key: str


class Authorization(Part):
    """What is shown at each scrape."""

    type: Literal["Bearer"]
    credentials: SecretKey


class Relabeling(Part):
    """What becomes of a label."""

    targetLabel: str  # noqa: N815
    replacement: str


class Endpoint(Part):
    """What is scraped of a pod."""

    port: str
    path: str = "/metrics"
    interval: Annotated[str, Field(pattern=r"^\d+(ms|s|m)$")]
    authorization: Authorization | None = None
    relabelings: list[Relabeling] = []


class MatchLabels(Part):
    """Whom it means."""

    matchLabels: Labels  # noqa: N815


class PodMonitorSpec(Part):
    """Which pods are scraped."""

    selector: MatchLabels
    podTargetLabels: list[str] = []  # noqa: N815
    podMetricsEndpoints: list[Endpoint]  # noqa: N815


class PodMonitor(Part):
    """monitoring.coreos.com/v1."""

    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["PodMonitor"]
    metadata: Meta
    spec: PodMonitorSpec


class Rule(Part):
    """An alert."""

    alert: str
    expr: str
    for_: Annotated[str | None, Field(alias="for", pattern=r"^\d+[smh]$")] = None
    labels: Labels = {}
    annotations: dict[str, str] = {}


class RuleGroup(Part):
    """Alerts that are looked at together."""

    name: str
    rules: list[Rule]


class RuleGroups(Part):
    """All of them."""

    groups: list[RuleGroup]


class PrometheusRule(Part):
    """monitoring.coreos.com/v1."""

    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["PrometheusRule"]
    metadata: Meta
    spec: RuleGroups


_KINDS: dict[str, type[Part]] = {
    kind.__name__: kind
    for kind in (RayCluster, RayJob, ResourceFlavor, ClusterQueue, LocalQueue, PodMonitor, PrometheusRule)
}


def checked(one: dict[str, Any]) -> bool:
    """Whether it is of an operator's kind, and then all is right with it; False for those of Kubernetes itself.

    Raises:
        pydantic.ValidationError: the operator would not take it, or would drop some of it.
    """
    kind = _KINDS.get(one["kind"])
    if kind is None:
        return False
    kind.model_validate(one)
    return True
