"""Values far larger than the rest, and tokens that attention goes to for want of another.

| you want | take |
|---|---|
| single values a thousand times the median | `massive.massive` |
| the extremes of any sites in constant memory, also while training | `monitor.ActivationMonitor` |
| which tokens are attention sinks | `sinks.detect_sinks`; `attention_sinks` for the first token alone |
| which module writes them and which takes them away | `origin.sink_origin` |
| how near every token's state is to that of the first | `origin.anchor_cosines` |
"""
