"""SGLang: the plug-in and the algorithms that it registers."""
