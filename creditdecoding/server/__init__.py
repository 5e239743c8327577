"""An OpenAI-compatible server: `app` has the endpoints, `admission` the path of a request to the
engine, `event_stream` its way back.
"""
