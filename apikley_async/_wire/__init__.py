"""The service's JSON, the only place that spells what all models share; a class has its own input.

Requests out, answers in. Pure.
"""
