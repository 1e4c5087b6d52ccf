"""The gRPC service: jobs, models, checkpoints, data sets, and the thread that owns the device.

`app` assembles the server; `service` answers RPCs; `worker` is the one thread that trains; `jobs`, `models`,
`checkpoints` and `datasets` hold what it serves; `convert` and `errors` speak the contract's language.
"""
