"""An OpenAI server over an engine: requests (schema.py), answers as they grow (service.py,
shapes.py), HTTP (app.py), the live page.
"""
