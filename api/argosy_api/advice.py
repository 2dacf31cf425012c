"""What to do about each reason that a condition may have: one table, which `argosy status` and the docs show.

A message of a condition says what is the case, with names and numbers; this says what one can do about such a case. A
test holds that every reason that the operator can set is here; reasons that need nobody have an empty advice.
"""

NOTHING = ""

ADVICE: dict[str, str] = {
    # all is well, or will be
    "Ready": NOTHING,
    "Complete": NOTHING,
    "AllScheduled": NOTHING,
    "Loaded": NOTHING,
    "Synced": NOTHING,
    "Uniform": NOTHING,
    "OwnName": NOTHING,
    "Prefetched": NOTHING,
    "Indexed": NOTHING,
    "AsAsked": NOTHING,
    "Starting": "Wait: pods are being created.",
    "RollingOut": "Wait: workers of the new revision are starting, those of the old one serve meanwhile.",
    "NotStarted": "Wait; if it lasts, another condition says what holds it up.",
    "Downloading": "Wait: the message says how far it is.",
    "Loading": "Wait: the message says how far it is.",
    "Prefetching": "Wait: some nodes at a time pull images; workers there start meanwhile, too.",
    "Syncing": "Wait some seconds; if it lasts, look at the router's pods and at GET /routes on their metrics port.",
    "NotObserved": "Nothing, where no router or no worker is to be asked; else look at the operator's log.",
    # what is asked for
    "ScaledToZero": "Raise spec.replicas, or send a request where the resource may go down to zero.",
    "Partitioned": "Lower spec.rollout.partition when more workers may change.",
    "Canary": "Wait for its steps, or look at the message for what is compared.",
    "RolledBack": "The new revision was worse, and the former serves again: correct the resource and apply it.",
    "InvalidSpec": "Correct the field that the message names, and apply the resource again.",
    "ImageVolumesNotSupported": "Have the cluster, or the node, mount images as volumes (docs/models.md), or use hf://.",
    "ImageNotAllowed": "Leave spec.image out, or have it added to worker.allowedImages of the chart.",
    "NameConflict": "Delete or rename the object in the way, or give this resource another name.",
    "NameTaken": "Choose another spec.model.servedName, or ask for the model as namespace/name.",
    "ProgressDeadlineExceeded": "Put right what the other conditions name, or apply the former resource again.",
    # the API server
    "ApplyFailed": "Read what the API server says, and correct the resource.",
    "Forbidden": "Give the operator the right that the message names: its ClusterRole comes with the chart.",
    "ApiServerUnavailable": "Nothing: the operator tries again. Look at the control plane if it lasts.",
    "PodCreationFailed": "Look at quotas and admission policies of the namespace (kubectl describe resourcequota).",
    # placement
    "Unschedulable": "Compare spec.placement and spec.resources with the nodes (kubectl describe nodes).",
    "InsufficientGpu": "Add a node with so many GPUs and its device plugin, free some, or change spec.resources.gpu.",
    "InsufficientCpu": "Lower spec.resources.cpu, or add a node.",
    "InsufficientMemory": "Lower spec.resources.memory (argosy plan -f FILE says what is needed), or add a node.",
    "ClaimNotFound": "Create the PersistentVolumeClaim that the message names, or correct its name in the resource.",
    "ClaimNotBound": "Check that the claim's storage class exists and can provide the volume.",
    "PrefetchFailed": "See why (kubectl describe jobs), put it right and delete the Job, which is then made anew.",
    # container
    "ImagePullFailed": "Check spec.image, and that the node reaches the registry (the chart's imagePullSecrets).",
    "SecretNotFound": "Create the Secret or the key that the message names, or correct spec.model.tokenSecretRef.",
    "ContainerConfigError": "Read the message: the container cannot be made as the resource asks.",
    "MountFailed": "Check that the claim's volume can be mounted on that node, and in its access mode.",
    "OutOfMemory": "Raise spec.resources.memory, or lower engine.kvCacheMemory: argosy plan -f FILE shows the parts.",
    "CrashLooping": "Read the last words: kubectl logs POD --previous.",
    "PodFailed": "Nothing: it is being replaced. If it comes again, look at the node (kubectl describe node).",
    "NotReady": "Wait; if it lasts, read the worker's log: kubectl logs POD.",
    "Failed": "Read the message, and the worker's log: kubectl logs POD.",
    # model
    "ModelError": "Read the message: the model cannot be served as it is.",
    "ModelNotFound": "Correct spec.model.uri, or put the model where it points.",
    "ModelInvalid": "Fetch the model's files again: they are cut short or damaged.",
    "ModelUnsupported": "Read the message: it names what can be computed here instead.",
    "ModelDoesNotFit": "Ask argosy plan -f FILE what would fit: less context, other numbers, or more memory.",
    "ModelDownloadFailed": "Check the network, HF_ENDPOINT and the token (spec.model.tokenSecretRef).",
    # adapters
    "AdaptersLoaded": NOTHING,
    "AdaptersLoading": "Wait some seconds; if it lasts, read the worker's log: kubectl logs POD.",
    "AdapterFailed": "Put right what the message names, in the adapter's files or in spec.adapters.",
    # router and likeness
    "RouterUnreachable": "Look at the router's pods: kubectl get pods -l app.kubernetes.io/component=router -A.",
    "IndexBehind": "Look at the routers' log and Redis; workers that do not answer routers are named by RouterSynced.",
    "PredictionsMissed": "Raise engine.kvCacheMemory; else look at the routers' log for events that do not come.",
    "IndexBlind": "Look at the routers' log and Redis: what workers cache does not come to the routers.",
    "NotExact": "Nothing, where answers may depend a little on other requests; else choose another processor.",
    "DifferentArithmetic": "Choose alike nodes with spec.placement.nodeSelector, or set spec.engine.compute.",
    "DifferentSize": "Give the workers alike memory, or set spec.model.maxModelLen to what all of them can take.",
    # autoscaling
    "Load": NOTHING,
    "LessLoad": NOTHING,
    "Idle": NOTHING,
    "Woken": NOTHING,
    "Bounds": NOTHING,
    "Steady": NOTHING,
    "Stabilizing": "Wait: the number goes down when the load has been less for the whole window.",
    "Limited": "Wait: it goes on when workers that are on their way serve, or in the next period.",
    "AtMaximum": "Raise spec.autoscaling.maxReplicas if the load is to be served faster.",
    "NoSignals": "Look at the routers: no load is known, so the number stays.",
    "IncompleteSignals": "Look at workers and routers that do not answer: until all do, the number does not go down.",
    # the processes of embedded mode
    "Crashed": "Read its log, which argosy status names.",
    "StartFailed": "Read its log, which argosy status names.",
}


def advice(reason: str) -> str:
    """What to do; a reason that is not known here says so."""
    return ADVICE.get(reason, "Read the message: this version of the command does not know the reason.")
