"""Jobs sent to a cluster: what travels, which job is whose, and a job followed and submitted again to its end."""
