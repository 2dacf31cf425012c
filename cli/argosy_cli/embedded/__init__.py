"""Embedded mode: the plan's pods as local processes, with a router and a Valkey beside them.

resources   files -> checked resources            process     one child process and its log
review      what embedded mode cannot honour      launch      becomes the child; dies with the supervisor
machine     cores and GPUs of this computer       keeper      start, watch, wait, start again
pods        a Deployment -> command and env       replica     the job of a worker: a pod's probes
ports       free and taken ports                  services    the jobs of Valkey and the router
states      what is known of a run                probes      asking workers and the router how they are
run         the state folder                      assembly    builds all parts of a run
show        what the user sees                    supervisor  runs them; membership; the end
pages       asking over HTTP
"""
